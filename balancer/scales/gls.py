"""Geometric loss strategy (Chennupati et al. 2019, MultiNet++)."""

from torch import Tensor

from balancer.checks import check_range
from balancer.scales.reciprocal import reciprocal
from balancer.statistics import Statistics

__all__ = ["GLS"]


class GLS:
    """G / (m |L_i|), the gradient of the geometric mean G = (Π |L_i|)^(1/m).

    The direction is that of `RealtimeLoss`. The norm follows G, which falls with every loss.

    Args:
        limit: Largest factor, times m. A loss below 1 / limit counts as 1 / limit, so that a vanishing loss does not
            make G and all other gradients zero.

    Raises:
        ValueError: The limit is out of range.
    """

    needs_gradients = False

    def __init__(self, limit: float = 1e4) -> None:
        check_range("(1, inf)", limit=limit)
        self.limit = limit

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        inverse = reciprocal(statistics.losses, self.limit)
        return (inverse / inverse.log().mean().exp()).clamp_max(self.limit) / len(inverse)
