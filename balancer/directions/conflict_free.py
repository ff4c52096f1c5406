"""ConFIG (Liu et al. 2024, equation 2): the direction with the same cosine to all gradients."""

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["ConflictFree"]


class ConflictFree:
    """d = (sum_i g_i . u) u, where the unit vector u has the same cosine to all g_i and is in their span.

    With the cosines C, u = sum_i v_i u_i / sqrt(p . v) with C v = p. d . g_i > 0, and |d| <= sum_i |g_i|. If no such u
    exists, for example for opposed rows, the cosines and d approach 0. The pseudoinverse in the authors' code jumps to
    unequal cosines there.

    The user's weights are preferences p_i (mean 1) and do not multiply g_i: the cosine to g_i is proportional to p_i.
    With equal weights this is the published method.
    """

    needs_gradients = True

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, _solve)


def _solve(rows: UnitRows) -> Array:
    v = np.linalg.solve(rows.cosines, rows.preferences)
    return v * (rows.unweighted_norms @ rows.preferences) / (rows.preferences @ v)
