"""FairGrad (Ban and Ji 2024, equation 4): the direction that maximises the alpha-fairness of the gains."""

from torch import Tensor

from balancer.checks import check_range
from balancer.solvers import Array, UnitRows, fair_point, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["FairGrad"]


class FairGrad:
    """d = sum_i w_i g_i with (g_i . d)^alpha = 1 / w_i, which maximises sum_i (g_i . d)^(1 - alpha) / (1 - alpha).

    Alpha trades the sum of the gains g_i . d for their equality. With 1 it maximises their product (Nash-MTL), with 2
    it minimises the sum of 1 / gain. The larger alpha is, the more the smallest gain counts. Every loss falls.

    A gradient that is orthogonal to all others contributes the norm e_i = |g_i|^((1 - alpha) / (1 + alpha)). For
    alpha > 1 smaller gradients contribute more. For alpha <= 1, |d|^(1 + alpha) <= sum_i e_i^(1 + alpha). For
    alpha > 1 opposed rows lengthen d to at most 1000^(1 - 1 / alpha) sqrt(sum_i e_i^2).

    The user's weights are preferences p_i (mean 1) and do not multiply g_i: gain i counts p_i times,
    (g_i . d)^alpha = p_i / w_i. With equal weights this is the published method.

    Args:
        alpha: As above.

    Raises:
        ValueError: Alpha is not in [0.5, 4], where Newton's method converges for norms that spread over six decades.
    """

    needs_gradients = True

    def __init__(self, alpha: float = 2.0) -> None:
        check_range("[0.5, 4]", alpha=alpha)
        self.alpha = alpha

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        # A single row i has |g_i| v_i = (p_i |g_i| / v_i)^(1 / alpha).
        alone = rows.preferences ** (1 / (1 + self.alpha)) * rows.unweighted_norms ** (
            (1 - self.alpha) / (1 + self.alpha)
        )
        return fair_point(rows.cosines, alone, self.alpha)
