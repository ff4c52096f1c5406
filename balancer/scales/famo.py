"""Fast adaptive multitask optimization (Liu et al. 2023)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.adam import VectorAdam
from balancer.scales.reciprocal import check_limit, reciprocal
from balancer.statistics import Statistics

__all__ = ["FAMO"]


class FAMO(nn.Module):
    """c z_i / |L_i| with z = softmax(ξ) and c = 1 / Σ z_j / |L_j|; ξ is learnt so that all ln L_i fall alike.

    Liu et al. (2023, algorithm 1), with 0 as the least value of every loss. ξ goes against Jᵀ (ln L before the step -
    ln L after it), J being the Jacobian of the softmax: a loss that fell less than the others gets more. The paper
    takes both values from one batch. That would cost a second forward pass of codec and discriminator a step, so here
    the losses of the next batch stand for those after the step: the same in expectation, with the noise from batch to
    batch on top. Only losses that are there in both steps learn. The factors sum to 1.

    Args:
        lr: Learning rate of ξ.
        weight_decay: Pull of ξ to 0, added to its gradient as in the authors' Adam.
        limit: Largest ratio of two z; and a loss below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        xi [M]; before [M], ln |L| in the last step, NaN where there was none; and those of `VectorAdam`.
    """

    needs_gradients = False
    xi: Tensor
    before: Tensor

    def __init__(self, lr: float = 0.025, weight_decay: float = 1e-3, limit: float = 1e4) -> None:
        super().__init__()
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be 0 or positive, got {weight_decay}")
        self.lr, self.weight_decay = lr, weight_decay
        self.limit = check_limit(limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("xi", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("before", torch.full((len(weights),), math.nan, dtype=torch.float64))
        self.adam = VectorAdam(len(weights), self.lr)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index, inverse = statistics.index, reciprocal(statistics.losses, self.limit)
        after = -inverse.log()
        self._learn(index, self.before[index] - after)
        self.before.fill_(math.nan)
        self.before[index] = after
        factors = torch.softmax(self.xi[index], dim=0) * inverse
        return factors / factors.sum()

    def _learn(self, index: Tensor, decrease: Tensor) -> None:
        known = ~decrease.isnan()
        index, decrease = index[known], decrease[known]
        z = torch.softmax(self.xi[index], dim=0)
        gradient = z * (decrease - z @ decrease) + self.weight_decay * self.xi[index]
        self.adam(self.xi, index, gradient)
        self.xi.clamp_(-math.log(self.limit) / 2, math.log(self.limit) / 2)
