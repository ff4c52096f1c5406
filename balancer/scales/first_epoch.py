"""Each loss over its mean during the first epoch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.scales.initial_loss import InitialLoss
from balancer.statistics import Statistics

__all__ = ["FirstEpoch"]


class FirstEpoch(nn.Module):
    """1 during the first epoch, then 1 / (mean of |L_i| over it), which stays.

    Codecs are trained on random crops, without natural epochs: here one is the first `steps` steps with that loss.
    Where the epoch ends the factor jumps by up to `limit`.

    Args:
        steps: Length of the epoch.
        limit: Largest factor; a loss below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        Those of `InitialLoss`.
    """

    needs_gradients = False

    def __init__(self, steps: int = 500, limit: float = 1e4) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps must be 1 or more, got {steps}")
        self.initial = InitialLoss(steps, limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.initial.prepare(weights)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        first = self.initial.count[statistics.index] < self.initial.batches
        return torch.where(first, 1.0, self.initial(statistics))
