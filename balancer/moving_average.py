"""Exponential moving averages with one entry for each loss."""

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["MovingAverage"]


class MovingAverage(nn.Module):
    """Exponential moving average with bias correction, as in Adam (Kingma and Ba 2015): total / count.

    Only the losses that are active in a step are updated. With decay 0 the average is the value of this step.

    Buffers:
        total [M], count [M]: Discounted sums of values and of ones.

    Args:
        size: Number M of losses.
        decay: Beta of the average, in [0, 1).
    """

    total: Tensor
    count: Tensor

    def __init__(self, size: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(size, dtype=torch.float64))

    def forward(self, statistics: Statistics, values: Tensor) -> Tensor:
        """Adds this step's values and returns the averages of the active losses.

        Shape: values [m] -> [m] float64.
        """
        index = statistics.index
        kept, added = statistics.ema_coefficients(self.decay)
        self.total[index] = kept * self.total[index] + added * values
        self.count[index] = kept * self.count[index] + added
        return self.total[index] / self.count[index]
