"""Nash-MTL (Navon et al. 2022, algorithm 1): the Nash bargaining solution, which maximises the product of the gains."""

import numpy as np
from torch import Tensor

from balancer.checks import check_range
from balancer.solvers import Array, UnitRows, fair_point, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["NashMTL"]


class NashMTL:
    """d = sum_i w_i g_i with g_i . d = 1 / w_i, which maximises prod_i (g_i . d) over all d of that norm.

    Every loss falls. The w > 0 are the minimum of the convex function 0.5 |d|^2 - sum_i log w_i. Newton's method finds
    it; the authors use a sequence of convex approximations. The direction and |d| = sqrt(m) do not depend on the norms
    of the gradients. As rows become opposed, the weights grow to at most 1e6 sqrt(m) / |g_i|, and d approaches 0 when
    they are opposed to six digits.

    The user's weights are preferences p_i (mean 1) and do not multiply g_i: g_i . d = p_i / w_i, the asymmetric
    bargaining solution. With equal weights this is the published method.

    Args:
        max_norm: Largest norm of d, or None. The authors' code has 1, which is always active.

    Raises:
        ValueError: max_norm is not positive.
    """

    needs_gradients = True

    def __init__(self, max_norm: float | None = None) -> None:
        if max_norm is not None:
            check_range("(0, inf)", max_norm=max_norm)
        self.max_norm = max_norm

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        v = fair_point(rows.cosines, np.sqrt(rows.preferences), alpha=1.0)
        if self.max_norm is None:
            return v
        return v * min(1.0, self.max_norm / np.sqrt(len(v)))
