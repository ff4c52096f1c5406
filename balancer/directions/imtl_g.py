"""The combination of the gradients with equal projections on all of them (Liu et al. 2021, IMTL-G)."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, min_norm_point, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["IMTLG"]


class IMTLG:
    """d = sum_i a_i g_i with d . u_i equal for all i and sum_i a_i = 1, where u_i = g_i / |g_i|.

    The published solution may have negative a_i, and where these nearly cancel in the sum d explodes, or turns against
    every loss. There, d is the shortest convex combination of the u_i / p_i, which is the same direction wherever
    the published a_i are not negative; its length follows from sum_i a_i = 1 as before.

    The user's weights are preferences p_i (mean 1) and no part of g_i: d . u_i is proportional to p_i. With equal
    weights this is the published method.

    Args:
        limit: Bound on sum_i |a_i| |g_i| as a multiple of the largest norm. Parts that are all positive never exceed 1.

    Raises:
        ValueError: The limit is below 1.
    """

    needs_gradients = True

    def __init__(self, limit: float = 10.0) -> None:
        if not 1 <= limit < float("inf"):
            raise ValueError(f"limit must be 1 or more, got {limit}")
        self.limit = limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        v = np.linalg.solve(rows.cosines, rows.preferences)
        if np.abs(v).sum() > self.limit * rows.lengths.max() * (v / rows.lengths).sum():
            v = min_norm_point(rows.cosines, 1 / rows.preferences) / rows.preferences
        return v / (v / rows.lengths).sum()
