"""Geometric loss strategy (Chennupati et al. 2019)."""

from collections.abc import Mapping

from torch import Tensor

from balancer.scales.reciprocal import check_limit, reciprocal
from balancer.statistics import Statistics

__all__ = ["GLS"]


class GLS:
    """G / (m |L_i|), the gradient of the geometric mean G = (Π |L_i|)^(1/m).

    Chennupati et al. (2019, "MultiNet++"). The direction is that of `RealtimeLoss`; the length follows G, which
    falls with every loss.

    Args:
        limit: Largest factor, times m; a loss below 1 / limit counts as 1 / limit, so that one that vanishes does
            not take G, and with it all other gradients, to zero.

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
        inverse = reciprocal(statistics.losses, self.limit)
        return (inverse / inverse.log().mean().exp()).clamp_max(self.limit) / len(inverse)
