"""Each loss divided by its own value, the gradient of Σ ln L_i (the logarithmic losses of Lin et al. 2023, DB-MTL)."""

from torch import Tensor

from balancer.checks import check_range
from balancer.scales.reciprocal import reciprocal
from balancer.statistics import Statistics

__all__ = ["RealtimeLoss"]


class RealtimeLoss:
    """1 / |L_i| of this step. All scaled losses are 1, so only the raw losses show progress.

    Args:
        limit: Largest factor; a loss below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: The limit is out of range.
    """

    needs_gradients = False

    def __init__(self, limit: float = 1e4) -> None:
        check_range("(1, inf)", limit=limit)
        self.limit = limit

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return reciprocal(statistics.losses, self.limit)
