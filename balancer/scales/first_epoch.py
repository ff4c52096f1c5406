"""Each loss divided by its mean during the first epoch. There is no published source."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.checks import check_range
from balancer.scales.initial_loss import InitialLoss
from balancer.statistics import Statistics

__all__ = ["FirstEpoch"]


class FirstEpoch(nn.Module):
    """1 during the first epoch, then 1 / (mean of |L_i| over it), which is constant.

    Codecs are trained on random segments and have no natural epochs. An epoch is the first `epoch_steps` steps with a
    loss. At its end the factor changes abruptly, at most to `limit`.

    Args:
        epoch_steps: Number of steps in the first epoch.
        limit: Largest factor; a mean below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = False

    def __init__(self, epoch_steps: int = 500, limit: float = 1e4) -> None:
        super().__init__()
        check_range("[1, inf)", epoch_steps=epoch_steps)
        self.initial = InitialLoss(epoch_steps, limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.initial.prepare(weights)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        in_epoch = self.initial.count[statistics.index] < self.initial.average_steps
        return torch.where(in_epoch, 1.0, self.initial(statistics))
