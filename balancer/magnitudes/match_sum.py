"""A combined gradient with the norm of the plain sum."""

from torch import Tensor

from balancer.magnitudes.rescale import norm_ratio
from balancer.statistics import Statistics

__all__ = ["MatchSum"]


class MatchSum:
    """The norm is that of the plain sum of the scaled gradients. Strategies then differ only in direction."""

    needs_gradients = True

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        # |sum of rows|^2 is the sum of all inner products; rounding may make it slightly negative.
        plain = statistics.gramian.sum().clamp_min(0).sqrt()
        return norm_ratio(plain, statistics.norm(gradient), statistics, weights, gradient)
