"""Each loss over that of the best constant prediction."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.scales.initial_loss import InitialLoss
from balancer.scales.reciprocal import reciprocal
from balancer.statistics import Statistics

__all__ = ["BaselineLoss"]


class BaselineLoss(nn.Module):
    """1 / L_i(best constant), so that a loss of 1 is worth no more than knowing the data's mean or median.

    For the squared error the scaled loss is the fraction of variance unexplained, 1 - R². Losses that no constant
    can be put into, adversarial ones above all, are divided by their initial value instead, as in `InitialLoss`.

    Args:
        batches: Steps to average for the initial value.
        limit: Largest factor; a prior below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        baselines [M]: Losses of the best constant prediction, NaN where there is none; and those of `InitialLoss`.
    """

    needs_gradients = False
    baselines: Tensor

    def __init__(self, batches: int = 20, limit: float = 1e4) -> None:
        super().__init__()
        self.initial = InitialLoss(batches, limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.names = list(weights)
        self.initial.prepare(weights)
        self.register_buffer("baselines", torch.full((len(weights),), math.nan, dtype=torch.float64))

    def set_constant_baselines(self, losses: Mapping[str, float]) -> None:
        """Sets all baselines; see `balancer.strategy.UsesConstantBaselines`.

        Raises:
            ValueError: One belongs to no loss, or is no finite number from 0 up.
        """
        bad = {name: loss for name, loss in losses.items() if name not in self.names or not 0 <= loss < math.inf}
        if bad:
            raise ValueError(f"constant baselines must be finite, not negative, and belong to {self.names}; got {bad}")
        self.baselines.copy_(torch.tensor([losses.get(name, math.nan) for name in self.names], dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        baselines = self.baselines[statistics.index]
        return torch.where(baselines.isnan(), self.initial(statistics), reciprocal(baselines, self.initial.limit))
