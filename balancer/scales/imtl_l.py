"""The loss balance of impartial multi-task learning (Liu et al. 2021, IMTL-L)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.adam import VectorAdam
from balancer.checks import check_range
from balancer.statistics import Statistics

__all__ = ["IMTLL"]


class IMTLL(nn.Module):
    """exp(s_i), with s_i learnt to minimise Σ exp(s_i) |L_i| - s_i.

    At the minimum the factor is 1 / |L_i|, and all scaled losses are 1.

    Args:
        lr: Learning rate of s.
        limit: s stays within ±ln(limit), the factor within 1 / limit .. limit. A larger loss counts as limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        s [M].
    """

    needs_gradients = False
    s: Tensor

    def __init__(self, lr: float = 0.025, limit: float = 1e4) -> None:
        super().__init__()
        check_range("(1, inf)", limit=limit)
        self.lr, self.limit = lr, limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("s", torch.zeros(len(weights), dtype=torch.float64))
        self.adam = VectorAdam(len(weights), self.lr)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index, magnitudes = statistics.index, statistics.losses.abs().clamp_max(self.limit)
        factors = torch.exp(self.s[index])
        self.adam(self.s, index, factors * magnitudes - 1)
        self.s.clamp_(-math.log(self.limit), math.log(self.limit))
        return factors
