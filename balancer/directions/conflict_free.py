"""The direction with the same cosine to all gradients (Liu et al. 2024, ConFIG, equation 2)."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["ConflictFree"]


class ConflictFree:
    """d = (sum_i g_i . u) u, where the unit vector u has the same cosine to all g_i and lies in their span.

    From the cosines C alone: u = sum_i v_i u_i / sqrt(p . v) with C v = p. d . g_i > 0, and |d| <= sum_i |g_i|. As rows
    become opposed, or in another way such that no u is left, the cosines and with them d go to 0; the pseudoinverse
    in the authors' code jumps to unequal ones there.

    The user's weights are preferences p_i (mean 1) and no part of g_i: the cosine to g_i is proportional to p_i. With
    equal weights this is the published method.
    """

    needs_gradients = True

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, _solve)


def _solve(rows: UnitRows) -> Array:
    v = np.linalg.solve(rows.cosines, rows.preferences)
    return v * (rows.lengths @ rows.preferences) / (rows.preferences @ v)
