"""Fast adaptive multitask optimization (Liu et al. 2023, FAMO)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.adam import VectorAdam
from balancer.checks import check_range
from balancer.scales.reciprocal import reciprocal
from balancer.statistics import Statistics

__all__ = ["FAMO"]


class FAMO(nn.Module):
    """c z_i / |L_i| with z = softmax(ξ) and c = 1 / Σ z_j / |L_j|, where ξ is learnt so that all ln L_i fall equally.

    Liu et al. (2023, algorithm 1) with 0 as the smallest value of every loss. The gradient of ξ is
    Jᵀ (ln L before the step - ln L after it) with the Jacobian J of the softmax: a loss that falls less than the others
    gets more weight. The paper computes both values on one batch, which would take a second forward pass of codec and
    discriminator per step. Here the losses of the next batch replace those after the step. Their expectation is the
    same; the variance between batches is added. Only losses that are active in both steps are updated. The factors sum
    to 1.

    Args:
        lr: Learning rate of ξ.
        weight_decay: L2 decay of ξ, added to its gradient as in the authors' Adam.
        limit: Largest ratio of two z. A loss below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        xi [M]: ξ.
        last_log [M]: ln |L| of the last step, NaN for losses that were inactive.
    """

    needs_gradients = False
    xi: Tensor
    last_log: Tensor

    def __init__(self, lr: float = 0.025, weight_decay: float = 1e-3, limit: float = 1e4) -> None:
        super().__init__()
        check_range("[0, inf)", weight_decay=weight_decay)
        check_range("(1, inf)", limit=limit)
        self.lr, self.weight_decay, self.limit = lr, weight_decay, limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("xi", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("last_log", torch.full((len(weights),), math.nan, dtype=torch.float64))
        self.adam = VectorAdam(len(weights), self.lr)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index, inverse = statistics.index, reciprocal(statistics.losses, self.limit)
        log = -inverse.log()
        self._step(index, self.last_log[index] - log)
        self.last_log.fill_(math.nan)
        self.last_log[index] = log
        factors = torch.softmax(self.xi[index], dim=0) * inverse
        return factors / factors.sum()

    def _step(self, index: Tensor, decrease: Tensor) -> None:
        known = ~decrease.isnan()
        index, decrease = index[known], decrease[known]
        z = torch.softmax(self.xi[index], dim=0)
        gradient = z * (decrease - z @ decrease) + self.weight_decay * self.xi[index]
        self.adam(self.xi, index, gradient)
        self.xi.clamp_(-math.log(self.limit) / 2, math.log(self.limit) / 2)
