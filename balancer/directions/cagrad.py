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
        c: Radius of the ball; 0 is the mean gradient. 0.4 and 0.5 are usual.
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
    (sum_i x_i / |g_i|) / f, so Newton's method started where f(t) >= radius comes down to the t wanted. That is at
    t = 0, or if that is inside the ball, at what the longest d in it would make along the shortest row.
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


_CANCELLED = 1e4  # rows that much longer than their sum: no progress to be had, and float32 would add rounding
