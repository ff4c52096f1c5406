"""CAGrad (Liu et al. 2021, algorithm 1): the direction near the mean gradient with the largest smallest progress."""

import numpy as np
from torch import Tensor

from balancer.checks import check_range
from balancer.solvers import Array, UnitRows, nonnegative_minimum, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["CAGrad"]

_CANCELLED = 1e4  # coefficients this much larger than their sum: there is no progress, and float32 would add rounding


class CAGrad:
    """d maximises min_i g_i . d subject to |d - g_0| <= c |g_0|, where g_0 is the mean of the gradients.

    The user's weights multiply the rows, both in g_0 and in the minimum. |d| <= (1 + c) |g_0|.

    If no direction makes all losses fall, for example with an opposed pair, many d have the optimum 0, and the nearest
    one to g_0 is used. The published formula divides by zero there.

    Args:
        c: Radius of the ball; 0 gives the mean gradient. 0.4 and 0.5 are usual.
        rescale: Divide d by 1 + c^2, as in LibMTL.

    Raises:
        ValueError: c is not in [0, 1), where the paper proves convergence.
    """

    needs_gradients = True

    def __init__(self, c: float = 0.4, rescale: bool = False) -> None:
        check_range("[0, 1)", c=c)
        self.c = c
        self.rescale = rescale

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        mean = rows.norms / len(rows.norms)
        radius = self.c * float(np.sqrt(mean @ rows.cosines @ mean))
        coefficients = mean + _correction(rows, mean, radius)
        return coefficients / (1 + self.c**2) if self.rescale else coefficients


def _correction(rows: UnitRows, mean: Array, radius: float) -> Array:
    """Coefficients x >= 0 of d - g_0.

    A d with progress t on all losses, u_i . d >= t / |g_i|, has at least the distance f(t) from g_0. f is convex with
    slope (sum_i x_i / |g_i|) / f. Newton's method from a start with f(t) >= radius therefore descends to the optimal
    t. The start is t = 0, or, if that is inside the ball, the progress of the longest d in it along the shortest row.
    """

    def nearest(progress: float) -> tuple[Array, float]:
        x = nonnegative_minimum(rows.cosines, (progress / rows.norms - rows.cosines @ mean)[None])[0]
        return x, float(np.sqrt(x @ rows.cosines @ x))

    progress, least = 0.0, -np.inf
    x, distance = without_progress, _ = nearest(0.0)
    if distance <= radius:
        progress, least = rows.norms.min() * (radius + np.sqrt(mean @ rows.cosines @ mean)), 0.0
        x, distance = nearest(progress)
    for _ in range(50):
        if distance <= (1 + 1e-12) * radius:
            break
        progress = max(least, progress - (distance - radius) * distance / (x / rows.norms).sum())
        x, distance = nearest(progress)
    cancels = least == 0 and x.sum() > _CANCELLED * radius
    return without_progress if cancels else x
