"""Each loss divided by its initial value, the loss ratio of GradNorm (Chen et al. 2018, section 3.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.checks import check_range
from balancer.scales.reciprocal import reciprocal
from balancer.statistics import Statistics

__all__ = ["InitialLoss"]


class InitialLoss(nn.Module):
    """1 / L_i(0). Every scaled loss is the fraction of its initial value that remains.

    L_i(0) is the mean of |L_i| over the first `average_steps` steps with loss i, so a loss that starts late has its own
    initial value. During these steps it is the mean so far; afterwards it is constant.

    Args:
        average_steps: Number of steps to average.
        limit: Largest factor; an initial value below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        total [M], count [M]: Sum of the averaged magnitudes, and their number.
    """

    needs_gradients = False
    total: Tensor
    count: Tensor

    def __init__(self, average_steps: int = 20, limit: float = 1e4) -> None:
        super().__init__()
        check_range("[1, inf)", average_steps=average_steps)
        check_range("(1, inf)", limit=limit)
        self.average_steps = average_steps
        self.limit = limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("total", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        starting = self.count[index] < self.average_steps
        self.total[index] += torch.where(starting, statistics.losses.abs(), 0.0)
        self.count[index] += starting
        return reciprocal(self.total[index] / self.count[index], self.limit)
