"""Dynamic weight average: larger weights for losses that fall slowly (Liu, Johns and Davison 2019)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.checks import check_range
from balancer.statistics import Statistics

__all__ = ["DWA"]


class DWA(nn.Module):
    """m softmax(r / T), with r_i the mean of |L_i| in the last epoch over its mean in the epoch before.

    Liu, Johns and Davison (2019, section 3.2, equation 7). It balances rates, not scales: a loss that is a thousand
    times as large as the others stays so. An epoch is a window of `window_steps` steps with that loss. Before two
    windows are complete, r is 1.

    Args:
        window_steps: Length of a window.
        temperature: T. Larger values give more equal factors.
        limit: Largest r, so that a sudden rise of one loss does not take all weight from the others.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        total [M], count [M]: Sum and number of magnitudes in the current window.
        last [M], before_last [M]: Means of the two windows before, NaN if there was none.
    """

    needs_gradients = False
    total: Tensor
    count: Tensor
    last: Tensor
    before_last: Tensor

    def __init__(self, window_steps: int = 500, temperature: float = 2.0, limit: float = 10.0) -> None:
        super().__init__()
        check_range("[1, inf)", window_steps=window_steps)
        check_range("(0, inf)", temperature=temperature)
        check_range("(1, inf)", limit=limit)
        self.window_steps, self.temperature, self.limit = window_steps, temperature, limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        for name, start in (("total", 0.0), ("count", 0.0), ("last", math.nan), ("before_last", math.nan)):
            self.register_buffer(name, torch.full((len(weights),), start, dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        rates = (self.last[index] / self.before_last[index]).clamp_max(self.limit)
        rates = torch.where(rates.isnan(), 1.0, rates)  # fewer than two windows, or two windows of zeros
        self._add(index, statistics.losses.abs())
        return len(index) * torch.softmax(rates / self.temperature, dim=0)

    def _add(self, index: Tensor, magnitudes: Tensor) -> None:
        total, count = self.total[index] + magnitudes, self.count[index] + 1
        complete = count == self.window_steps
        self.before_last[index] = torch.where(complete, self.last[index], self.before_last[index])
        self.last[index] = torch.where(complete, total / count, self.last[index])
        self.total[index] = torch.where(complete, 0.0, total)
        self.count[index] = torch.where(complete, 0.0, count)
