"""MGDA (Désidéri 2012; Sener and Koltun 2018): the shortest convex combination of the gradients."""

from typing import Literal

import numpy as np
from torch import Tensor

from balancer.checks import check_choice, check_range
from balancer.solvers import Array, UnitRows, min_norm_point, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["MGDA"]


class MGDA:
    """d = argmin |d|^2 over the convex hull of the rows r_i = g_i / (p_i z_i), solved exactly.

    d . r_i >= |d|^2 for all i, so every loss falls unless d = 0, and |d| <= |r_i|. The weights of orthogonal rows are
    proportional to 1 / |r_i|^2: without a normalizer the loss with the smallest gradient gets nearly all weight. d
    combines the r_i, as in LibMTL. Sener and Koltun's code applies the weights to the g_i, so losses may rise.

    The user's weights are preferences p_i (mean 1) and do not multiply g_i: the guaranteed progress d . g_i is
    proportional to p_i. With equal weights this is the published method.

    Args:
        normalizer: z_i is 1 for `none`, |g_i| for `l2`, |L_i| for `loss`, |L_i| |g_i| for `loss+`.
        floor: Smallest |L_i| to divide by.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(self, normalizer: Literal["none", "l2", "loss", "loss+"] = "l2", floor: float = 1e-3) -> None:
        check_choice(("none", "l2", "loss", "loss+"), normalizer=normalizer)
        check_range("(0, inf)", floor=floor)
        self.normalizer = normalizer
        self.floor = floor

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        losses, norms = np.maximum(np.abs(rows.losses / rows.user_weights), self.floor), rows.unweighted_norms
        normalizers = {"none": np.ones_like(losses), "l2": norms, "loss": losses, "loss+": losses * norms}
        row_norms = norms / (rows.preferences * normalizers[self.normalizer])
        return min_norm_point(rows.cosines, row_norms) * row_norms
