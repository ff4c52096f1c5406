"""The direction that maximises alpha-fairness of the losses' gains (Ban and Ji 2024, equation 4)."""

from collections.abc import Mapping

from torch import Tensor

from balancer.solvers import Array, UnitRows, fair_point, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["FairGrad"]


class FairGrad:
    """d = sum_i w_i g_i with (g_i . d)^alpha = 1 / w_i, which maximises sum_i (g_i . d)^(1 - alpha) / (1 - alpha).

    Alpha trades the sum of gains for their equality: towards 0 the sum counts, at 1 the product (Nash-MTL), at 2 the
    delay, towards infinity the smallest gain. Every loss falls. Of orthogonal rows g_i has the weight
    |g_i|^(-2 alpha / (1 + alpha)), so that for alpha > 1 its part of d grows as the gradient shrinks: a magnitude rule
    bounds it. As rows become opposed the weights grow, to at most a million times that.

    The user's weights are preferences p_i (mean 1) and no part of g_i: gain i counts p_i times, (g_i . d)^alpha =
    p_i / w_i. With equal weights this is the published method.

    Args:
        alpha: As above.

    Raises:
        ValueError: Alpha is not positive.
    """

    needs_gradients = True

    def __init__(self, alpha: float = 2.0) -> None:
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, got {alpha}")
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
