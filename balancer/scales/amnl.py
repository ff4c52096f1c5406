"""Each loss over its present size: adaptive multi-task normalised loss."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from balancer.scales.reciprocal import check_limit, reciprocal
from balancer.statistics import Statistics

__all__ = ["AMNL"]


class AMNL(nn.Module):
    """1 / mu_i with mu_i the size of the loss, taken as a constant; the task weights, 0.5 each, are the user's.

    AMNL was put forward for remaining-life prediction. Its `current` mode, mu_i = |L_i| of this step, is the same as
    `RealtimeLoss`; with `ema` it is a moving average corrected for its start, as in Adam.

    Args:
        mode: `current` or `ema`.
        decay: beta of the average.
        limit: Largest factor; a loss below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        total [M], count [M]: discounted sum of sizes and of ones; their quotient is the average.
    """

    needs_gradients = False
    total: Tensor
    count: Tensor

    def __init__(self, mode: Literal["current", "ema"] = "ema", decay: float = 0.99, limit: float = 1e4) -> None:
        super().__init__()
        if mode not in ("current", "ema"):
            raise ValueError(f"mode must be current or ema, got {mode!r}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay if mode == "ema" else 0.0
        self.limit = check_limit(limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("total", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        self.total[index] = self.total[index] * self.decay + statistics.losses.abs()
        self.count[index] = self.count[index] * self.decay + 1
        return reciprocal(self.total[index] / self.count[index], self.limit)
