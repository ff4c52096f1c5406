"""Each loss divided by the loss of the best constant prediction. There is no published source."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.checks import check_names
from balancer.scales.initial_loss import InitialLoss
from balancer.scales.reciprocal import reciprocal
from balancer.statistics import Statistics

__all__ = ["BaselineLoss"]


class BaselineLoss(nn.Module):
    """1 / L_i(best constant). A scaled loss of 1 is no better than the mean or the median of the data.

    For the squared error the scaled loss is the fraction of variance unexplained, 1 - R². Losses without a constant
    baseline, such as adversarial losses, are divided by their initial value as in `InitialLoss`.

    Args:
        average_steps: Number of steps to average for the initial value.
        limit: Largest factor; a baseline below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        baselines [M]: Losses of the best constant prediction, NaN where there is none.
    """

    needs_gradients = False
    baselines: Tensor

    def __init__(self, average_steps: int = 20, limit: float = 1e4) -> None:
        super().__init__()
        self.initial = InitialLoss(average_steps, limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self.initial.prepare(weights)
        self.register_buffer("baselines", torch.full((len(weights),), math.nan, dtype=torch.float64))

    def set_constant_baselines(self, losses: Mapping[str, float]) -> None:
        """Sets all baselines; see `balancer.strategy.UsesConstantBaselines`.

        Raises:
            ValueError: A name is not the name of a loss, or a value is negative or not finite.
        """
        check_names(losses, self.weights, "constant baselines")
        if not all(0 <= loss < math.inf for loss in losses.values()):
            raise ValueError(f"constant baselines must be finite and >= 0, got {dict(losses)}")
        values = [losses.get(name, math.nan) for name in self.weights]
        self.baselines.copy_(torch.tensor(values, dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        baselines = self.baselines[statistics.index]
        return torch.where(baselines.isnan(), self.initial(statistics), reciprocal(baselines, self.initial.limit))
