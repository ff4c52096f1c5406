"""The mean of the gradients, each first freed from conflict (Quinton and Rey 2024)."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, on_unit_rows, to_dual_cone
from balancer.statistics import Statistics

__all__ = ["UPGrad"]


class UPGrad:
    """d is the mean over i of g_i projected on the dual cone {d : d . g_j >= 0 for all j}.

    No loss rises. A projection only shortens: |d| is at most the mean of |g_i|. The cone does not depend on the lengths
    of the rows, so the projections are found exactly, without the regulariser of the authors' code, whose size is
    set by the longest row. Larger user weights make larger rows, as in a weighted mean.
    """

    needs_gradients = True

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, _solve)


def _solve(rows: UnitRows) -> Array:
    projected = to_dual_cone(rows.cosines, np.eye(len(rows.norms)))
    return rows.norms @ projected / len(rows.norms)
