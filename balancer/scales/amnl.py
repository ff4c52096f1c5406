"""Adaptive multi-task normalised loss (AMNL): each loss divided by its current magnitude."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from balancer.checks import check_choice, check_range
from balancer.moving_average import MovingAverage
from balancer.scales.reciprocal import reciprocal
from balancer.statistics import Statistics

__all__ = ["AMNL"]


class AMNL(nn.Module):
    """1 / mu_i with the magnitude mu_i of the loss as a constant. The task weights, 0.5 each, are the user's weights.

    AMNL was proposed for predicting remaining useful life. With `current`, mu_i is |L_i| of this step, the same as
    `RealtimeLoss`. With `ema` it is a moving average with bias correction.

    Args:
        mode: `current` or `ema`.
        decay: Beta of the average.
        limit: Largest factor; a loss below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = False

    def __init__(self, mode: Literal["current", "ema"] = "ema", decay: float = 0.99, limit: float = 1e4) -> None:
        super().__init__()
        check_choice(("current", "ema"), mode=mode)
        check_range("[0, 1)", decay=decay)
        check_range("(1, inf)", limit=limit)
        self.decay = decay if mode == "ema" else 0.0
        self.limit = limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.average = MovingAverage(len(weights), self.decay)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return reciprocal(self.average(statistics, statistics.losses.abs()), self.limit)
