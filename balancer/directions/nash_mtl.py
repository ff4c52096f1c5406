"""The bargain between the losses that multiplies their gains (Navon et al. 2022, algorithm 1)."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, fair_point, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["NashMTL"]


class NashMTL:
    """d = sum_i w_i g_i with g_i . d = 1 / w_i, which maximises prod_i (g_i . d) over all d of that length.

    Every loss falls. The w > 0 are the minimum of the convex 0.5 |d|^2 - sum_i log w_i, found by Newton's method rather
    than by the authors' sequence of convex approximations. The direction and |d| = sqrt(m) are blind to the lengths
    of the gradients. As rows become opposed the weights grow, to at most 1e6 sqrt(m) / |g_i|, and d goes to 0 once
    they are opposed to the sixth digit.

    The user's weights are preferences p_i (mean 1) and no part of g_i: g_i . d = p_i / w_i, the asymmetric bargain.
    With equal weights this is the published method.

    Args:
        max_norm: Longest d; the authors' code has 1, which always binds. None: as it comes.

    Raises:
        ValueError: max_norm is not positive.
    """

    needs_gradients = True

    def __init__(self, max_norm: float | None = None) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be positive or None, got {max_norm}")
        self.max_norm = max_norm

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        v = fair_point(rows.cosines, np.sqrt(rows.preferences), alpha=1.0)
        if self.max_norm is None:
            return v
        return v * min(1.0, self.max_norm / np.sqrt(len(v)))
