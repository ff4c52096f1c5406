"""DualProj (Lopez-Paz and Ranzato 2017, GEM, equation 11, for all losses alike): the mean gradient without conflict."""

from torch import Tensor

from balancer.solvers import Array, UnitRows, project_to_dual_cone, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["DualProj"]


class DualProj:
    """d is the mean of the gradients projected on the dual cone {d : d . g_j >= 0 for all j}.

    No loss rises, and |d| is at most the norm of the mean. The user's weights multiply the rows, as in a weighted mean.
    """

    needs_gradients = True

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, _solve)


def _solve(rows: UnitRows) -> Array:
    mean = rows.norms / len(rows.norms)
    return project_to_dual_cone(rows.cosines, mean[None])[0]
