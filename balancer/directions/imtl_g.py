"""IMTL-G (Liu et al. 2021): the combination of the gradients with equal projections on all of them."""

import numpy as np
from torch import Tensor

from balancer.checks import check_range
from balancer.solvers import Array, UnitRows, min_norm_point, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["IMTLG"]


class IMTLG:
    """d = sum_i a_i g_i with d . u_i equal for all i and sum_i a_i = 1, where u_i = g_i / |g_i|.

    The published solution may have negative a_i. If these nearly cancel in the sum, d explodes or opposes every loss.
    In these cases d is the shortest convex combination of the u_i / p_i. That is the published direction if no a_i is
    negative. Its norm follows from sum_i a_i = 1 as before.

    The user's weights are preferences p_i (mean 1) and do not multiply g_i: d . u_i is proportional to p_i. With equal
    weights this is the published method.

    Args:
        limit: Largest sum_i |a_i| |g_i| of the published solution, as a multiple of the largest |g_i|. If all a_i are
            positive it is at most 1.

    Raises:
        ValueError: The limit is below 1.
    """

    needs_gradients = True

    def __init__(self, limit: float = 10.0) -> None:
        check_range("[1, inf)", limit=limit)
        self.limit = limit

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        norms = rows.unweighted_norms
        v = np.linalg.solve(rows.cosines, rows.preferences)
        if np.abs(v).sum() > self.limit * norms.max() * (v / norms).sum():
            v = min_norm_point(rows.cosines, 1 / rows.preferences) / rows.preferences
        return v / (v / norms).sum()
