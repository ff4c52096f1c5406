"""A combined gradient with the sum of the norms of its parts."""

from torch import Tensor

from balancer.magnitudes.rescale import norm_ratio
from balancer.statistics import Statistics

__all__ = ["SumOfNorms"]


class SumOfNorms:
    """The norm is the sum of the norms of the scaled gradients. Conflicts do not shorten the result."""

    needs_gradients = True

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        return norm_ratio(statistics.norms.sum(), statistics.norm(gradient), statistics, weights, gradient)
