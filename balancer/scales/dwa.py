"""Dynamic weight average: more to losses that fall slowly (Liu, Johns and Davison 2019)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["DWA"]


class DWA(nn.Module):
    """m softmax(r / T) with r_i the mean of |L_i| in the last epoch over that in the one before.

    Liu, Johns and Davison (2019, section 3.2, equation 7). It evens out rates, not scales: a loss a thousand times the
    others keeps that lead. Here an epoch is a window of `steps` steps with that loss; until two are over its r is 1.

    Args:
        steps: Length of a window.
        temperature: T; the larger, the more even the factors.
        limit: Largest r, lest a loss that leaps starve all others for a window.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        total [M], count [M]: of the window under way, sum of sizes and of ones.
        last [M], before_last [M]: means of the two windows before it, NaN if there was none.
    """

    needs_gradients = False
    total: Tensor
    count: Tensor
    last: Tensor
    before_last: Tensor

    def __init__(self, steps: int = 500, temperature: float = 2.0, limit: float = 10.0) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps must be 1 or more, got {steps}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 1 < limit < math.inf:
            raise ValueError(f"limit must be above 1 and finite, got {limit}")
        self.steps, self.temperature, self.limit = steps, temperature, limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        for name, start in (("total", 0.0), ("count", 0.0), ("last", math.nan), ("before_last", math.nan)):
            self.register_buffer(name, torch.full((len(weights),), start, dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        rates = (self.last[index] / self.before_last[index]).clamp_max(self.limit)
        rates = torch.where(rates.isnan(), 1.0, rates)  # no such window yet, or two of zeros
        self._record(index, statistics.losses.abs())
        return len(index) * torch.softmax(rates / self.temperature, dim=0)

    def _record(self, index: Tensor, sizes: Tensor) -> None:
        total, count = self.total[index] + sizes, self.count[index] + 1
        over = count == self.steps
        self.before_last[index] = torch.where(over, self.last[index], self.before_last[index])
        self.last[index] = torch.where(over, total / count, self.last[index])
        self.total[index] = torch.where(over, 0.0, total)
        self.count[index] = torch.where(over, 0.0, count)
