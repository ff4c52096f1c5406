"""Uncertainty weighting with a penalty that is never negative (Liebel and Körner 2018)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.adam import VectorAdam
from balancer.checks import check_range
from balancer.statistics import Statistics

__all__ = ["UncertaintyLog1p"]


class UncertaintyLog1p(nn.Module):
    """1 / (2 p_i²), with p_i learnt to minimise Σ |L_i| / (2 p_i²) + ln(1 + p_i²).

    Liebel and Körner (2018, "Auxiliary tasks in multi-task learning"). The optimum differs from that of `Uncertainty`:
    p² = (L + sqrt(L² + 8 L)) / 4. The factor is proportional to 1 / L for large losses and to 1 / sqrt(2 L) for small
    ones. The learnt parameter is ln p, because p could reach 0 or change its sign.

    Args:
        lr: Learning rate of ln p.
        limit: p² stays within 1 / limit .. limit, the factor within 1 / (2 limit) .. limit / 2. A larger loss counts
            as limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        log_p [M].
    """

    needs_gradients = False
    log_p: Tensor

    def __init__(self, lr: float = 0.025, limit: float = 1e4) -> None:
        super().__init__()
        check_range("(1, inf)", limit=limit)
        self.lr, self.limit = lr, limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("log_p", torch.zeros(len(weights), dtype=torch.float64))
        self.adam = VectorAdam(len(weights), self.lr)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index, magnitudes = statistics.index, statistics.losses.abs().clamp_max(self.limit)
        square = torch.exp(2 * self.log_p[index])
        self.adam(self.log_p, index, 2 * square / (1 + square) - magnitudes / square)  # d/d ln p = p d/dp
        self.log_p.clamp_(-math.log(self.limit) / 2, math.log(self.limit) / 2)
        return 0.5 / square
