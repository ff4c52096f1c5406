"""Homoscedastic uncertainty as a weight (Kendall, Gal and Cipolla 2018, section 3.2)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.adam import VectorAdam
from balancer.checks import check_range
from balancer.statistics import Statistics

__all__ = ["Uncertainty"]


class Uncertainty(nn.Module):
    """exp(-s_i) / 2, with s_i = ln σ_i² learnt to minimise Σ exp(-s_i) |L_i| / 2 + s_i / 2.

    At the minimum s_i = ln |L_i| and the factor is 1 / (2 |L_i|), so the factors grow as the losses fall. The magnitude
    is used because a negative loss would have no minimum. The user's weights, gradient clipping and weight decay of the
    codec do not affect s.

    Args:
        lr: Learning rate of s; 0.025 is that of the comparison in GradNorm (Chen et al. 2018).
        limit: s stays within ±ln(limit), the factor within 1 / (2 limit) .. limit / 2. A larger loss counts as limit.

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
        factors = torch.exp(-self.s[index]) / 2
        self.adam(self.s, index, 0.5 - factors * magnitudes)
        self.s.clamp_(-math.log(self.limit), math.log(self.limit))
        return factors
