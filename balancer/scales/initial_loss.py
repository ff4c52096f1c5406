"""Each loss over its value at the start of the training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.scales.reciprocal import check_limit, reciprocal
from balancer.statistics import Statistics

__all__ = ["InitialLoss"]


class InitialLoss(nn.Module):
    """1 / L_i(0), so that every loss counts as the part of its first value that is left.

    L_i(t) / L_i(0) is the loss ratio of GradNorm (Chen et al. 2018, section 3.1). L_i(0) is the mean of |L_i| over
    the first `batches` steps with that loss, so that one that is switched on late gets a start of its own. Until then
    it is the mean so far; from then on it stays.

    Args:
        batches: Steps to average.
        limit: Largest factor; a loss that starts below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        total [M], count [M]: sum of the averaged sizes, and how many.
    """

    needs_gradients = False
    total: Tensor
    count: Tensor

    def __init__(self, batches: int = 20, limit: float = 1e4) -> None:
        super().__init__()
        if batches < 1:
            raise ValueError(f"batches must be 1 or more, got {batches}")
        self.batches = batches
        self.limit = check_limit(limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("total", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        starting = self.count[index] < self.batches
        self.total[index] += torch.where(starting, statistics.losses.abs(), 0.0)
        self.count[index] += starting
        return reciprocal(self.total[index] / self.count[index], self.limit)
