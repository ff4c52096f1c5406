"""Each loss over its own value."""

from collections.abc import Mapping

from torch import Tensor

from balancer.scales.reciprocal import check_limit, reciprocal
from balancer.statistics import Statistics

__all__ = ["RealtimeLoss"]


class RealtimeLoss:
    """1 / |L_i| of this step, which is the gradient of Σ ln L_i (the logarithmic losses of Lin et al. 2023, DB-MTL).

    The scaled losses are 1 whatever happens, so only the raw ones tell of progress.

    Args:
        limit: Largest factor; a loss below 1 / limit counts as 1 / limit.

    Raises:
        ValueError: The limit is out of range.
    """

    needs_gradients = False

    def __init__(self, limit: float = 1e4) -> None:
        self.limit = check_limit(limit)

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return reciprocal(statistics.losses, self.limit)
