"""The shortest convex combination of the gradients (Désidéri 2012; Sener and Koltun 2018)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from torch import Tensor

from balancer.solvers import Array, UnitRows, min_norm_point, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["MGDA"]


class MGDA:
    """d = argmin |d|^2 over the convex hull of the rows r_i = g_i / (p_i z_i), solved exactly.

    d . r_i >= |d|^2 for all i, so every loss falls unless d = 0, and |d| <= |r_i|. Of orthogonal rows each gets a
    weight in proportion to 1 / |r_i|^2: without normaliser the loss with the smallest gradient gets nearly everything.
    d is made of the r_i, as in LibMTL; Sener and Koltun's code applies the weights to the g_i, where losses may rise.

    The user's weights are preferences p_i (mean 1) and no part of g_i: the progress d . g_i that all losses are
    guaranteed is proportional to p_i. With equal weights this is the published method.

    Args:
        normalizer: z_i is 1 for `none`, |g_i| for `l2`, |L_i| for `loss`, |L_i| |g_i| for `loss+`.
        floor: The smallest |L_i| to divide by.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(self, normalizer: Literal["none", "l2", "loss", "loss+"] = "l2", floor: float = 1e-3) -> None:
        if normalizer not in ("none", "l2", "loss", "loss+"):
            raise ValueError(f"normalizer must be none, l2, loss or loss+, got {normalizer!r}")
        if not 0 < floor < float("inf"):
            raise ValueError(f"floor must be positive, got {floor}")
        self.normalizer = normalizer
        self.floor = floor

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        losses = np.maximum(np.abs(rows.losses / rows.user_weights), self.floor)
        normalizers = {
            "none": np.ones_like(losses),
            "l2": rows.lengths,
            "loss": losses,
            "loss+": losses * rows.lengths,
        }
        lengths = rows.lengths / (rows.preferences * normalizers[self.normalizer])
        return min_norm_point(rows.cosines, lengths) * lengths
