"""UPGrad (Quinton and Rey 2024): the mean of the gradients after each is projected to a direction without conflict."""

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, project_to_dual_cone, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["UPGrad"]


class UPGrad:
    """d is the mean over i of g_i projected on the dual cone {d : d . g_j >= 0 for all j}.

    No loss rises. A projection only shortens, so |d| is at most the mean of |g_i|. The cone does not depend on the
    norms of the rows. The projections are exact and need no regulariser; that of the authors' code depends on the
    longest row. The user's weights multiply the rows, as in a weighted mean.
    """

    needs_gradients = True

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, _solve)


def _solve(rows: UnitRows) -> Array:
    projected = project_to_dual_cone(rows.cosines, np.eye(len(rows.norms)))
    return rows.norms @ projected / len(rows.norms)
