"""The gradients made orthogonal and equally long by the smallest change (Senushkin et al. 2023, algorithm 1)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from torch import Tensor

from balancer.solvers import ROUNDING, Array, UnitRows, on_unit_rows
from balancer.statistics import Statistics

__all__ = ["AlignedMTL"]


class AlignedMTL:
    """d = sum_i l_i h_i, where the rows h_i are the g_i with all singular values replaced by one, s.

    With the eigenvalues S^2 and eigenvectors V of the Gramian, d = sum_i w_i g_i with w = s V S^-1 V' l, and
    |d| <= s |l|. Singular values that are zero stay zero: as rows become dependent d shrinks with the smallest
    value, if s is that, until they are dependent to the sixth digit.

    The user's weights, divided by their sum, are l_i and no part of g_i. With equal weights this is the published
    method.

    Args:
        scale: s is the smallest singular value (`min`), at most the length of any gradient if they are independent;
            or the median of them, the lower of two (`median`); or their root mean square (`rmse`).

    Raises:
        ValueError: There is no such scale.
    """

    needs_gradients = True

    def __init__(self, scale: Literal["min", "median", "rmse"] = "min") -> None:
        if scale not in ("min", "median", "rmse"):
            raise ValueError(f"scale must be min, median or rmse, got {scale!r}")
        self.scale = scale

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        # The rank is that of the unit rows. What is left of them, times the lengths, has the singular values of the
        # gradients, and small ones more exactly than as roots of the eigenvalues of the Gramian.
        values, vectors = np.linalg.eigh(rows.cosines)
        kept = values > 10 * ROUNDING
        factor = np.sqrt(values[kept])[:, None] * vectors[:, kept].T * rows.lengths
        _, singular, right = np.linalg.svd(factor, full_matrices=False)  # from the largest down
        scale = {
            "min": singular[-1],
            "median": singular[len(singular) // 2],
            "rmse": np.sqrt(np.mean(singular**2)),
        }[self.scale]
        shares = rows.user_weights / rows.user_weights.sum()
        return rows.lengths * (right.T @ (scale / singular * (right @ shares)))
