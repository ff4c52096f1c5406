"""The mean gradient freed from conflict (Lopez-Paz and Ranzato 2017, GEM, equation 11, on all losses alike)."""

from collections.abc import Mapping

from torch import Tensor

from balancer.solvers import Array, UnitRows, on_unit_rows, to_dual_cone
from balancer.statistics import Statistics

__all__ = ["DualProj"]


class DualProj:
    """d is the mean of the gradients projected on the dual cone {d : d . g_j >= 0 for all j}.

    No loss rises, and |d| is at most the length of the mean. Larger user weights make larger rows, as in a weighted
    mean.
    """

    needs_gradients = True

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, _solve)


def _solve(rows: UnitRows) -> Array:
    mean = rows.norms / len(rows.norms)
    return to_dual_cone(rows.cosines, mean[None])[0]
