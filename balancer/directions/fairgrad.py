"""The direction that maximises alpha-fairness of the losses' gains (Ban and Ji 2024, equation 4)."""

from collections.abc import Mapping

from torch import Tensor

from balancer.solvers import Array, UnitRows, fair_point, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["FairGrad"]


class FairGrad:
    """d = sum_i w_i g_i with (g_i . d)^alpha = 1 / w_i, which maximises sum_i (g_i . d)^(1 - alpha) / (1 - alpha).

    Alpha trades the sum of the gains for their equality: at 1 it is their product that counts (Nash-MTL), at 2 the sum
    of 1 / gain, and the larger alpha the more the smallest gain. Every loss falls.

    A gradient that is orthogonal to all others contributes the length e_i = |g_i|^((1 - alpha) / (1 + alpha)): for
    alpha > 1 the more, the smaller it is. For alpha <= 1, |d|^(1 + alpha) <= sum_i e_i^(1 + alpha). For alpha > 1
    opposed rows lengthen d, to at most 1000^(1 - 1 / alpha) times sqrt(sum_i e_i^2).

    The user's weights are preferences p_i (mean 1) and no part of g_i: gain i counts p_i times, (g_i . d)^alpha =
    p_i / w_i. With equal weights this is the published method.

    Args:
        alpha: As above.

    Raises:
        ValueError: Alpha is not in [0.5, 4], where Newton's method finds the w even if lengths spread over six decades.
    """

    needs_gradients = True

    def __init__(self, alpha: float = 2.0) -> None:
        if not 0.5 <= alpha <= 4:
            raise ValueError(f"alpha must be in [0.5, 4], got {alpha}")
        self.alpha = alpha

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        # Alone, row i has |g_i| v_i = (p_i |g_i| / v_i)^(1 / alpha).
        alone = rows.preferences ** (1 / (1 + self.alpha)) * rows.lengths ** ((1 - self.alpha) / (1 + self.alpha))
        return fair_point(rows.cosines, alone, self.alpha)
