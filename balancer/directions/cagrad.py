"""The direction near the mean gradient that serves the worst-off loss best (Liu et al. 2021, algorithm 1)."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, nonnegative_minimum, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["CAGrad"]


class CAGrad:
    """d maximises min_i g_i . d subject to |d - g_0| <= c |g_0|, where g_0 is the mean of the gradients.

    Larger user weights make larger rows, in g_0 as in the minimum. |d| <= (1 + c) |g_0|.

    If no direction makes all losses fall, as with an opposed pair, many d share the optimum 0; the one nearest to g_0
    is taken. The published formula divides by a length that is zero there.

    Args:
        c: Radius of the ball; 0 is the mean gradient. The authors' experiments have 0.4 and 0.5.
        rescale: Divide d by 1 + c^2, as in LibMTL.

    Raises:
        ValueError: c is not in [0, 1), where the paper proves convergence.
    """

    needs_gradients = True

    def __init__(self, c: float = 0.4, rescale: bool = False) -> None:
        if not 0 <= c < 1:
            raise ValueError(f"c must be in [0, 1), got {c}")
        self.c = c
        self.rescale = rescale

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        mean = rows.norms / len(rows.norms)
        radius = self.c * float(np.sqrt(mean @ rows.cosines @ mean))
        coefficients = mean + _correction(rows, mean, radius)
        return coefficients / (1 + self.c**2) if self.rescale else coefficients


def _correction(rows: UnitRows, mean: Array, radius: float) -> Array:
    """Coefficients x >= 0 of d - g_0.

    A d with the progress t on all losses, u_i . d >= t / |g_i|, is at least f(t) from g_0. f is convex, with the slope
    (sum_i x_i / |g_i|) / f, so Newton's method started at an f(t) >= radius comes down to the t wanted. Such a start
    is what the longest d in the ball does along the shortest row.
    """

    def nearest(progress: float) -> tuple[Array, float]:
        x = nonnegative_minimum(rows.cosines, (progress / rows.norms - rows.cosines @ mean)[None])[0]
        return x, float(np.sqrt(x @ rows.cosines @ x))

    progress = rows.norms.min() * (radius + np.sqrt(mean @ rows.cosines @ mean))
    for _ in range(50):
        x, distance = nearest(progress)
        if distance <= (1 + 1e-12) * radius:
            break
        progress -= (distance - radius) * distance / (x / rows.norms).sum()
    without_progress, distance = nearest(0.0)
    cancels = x.sum() > _CANCELLED * radius
    return without_progress if cancels and distance <= radius else x


_CANCELLED = 1e4  # rows that much longer than their sum: no progress to be had, and float32 would add rounding
