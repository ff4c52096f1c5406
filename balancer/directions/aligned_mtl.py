"""Aligned-MTL (Senushkin et al. 2023, algorithm 1): the nearest gradients that are orthogonal and of equal norm."""

from typing import Literal

import numpy as np
from torch import Tensor

from balancer.checks import check_choice
from balancer.solvers import ROUNDING, Array, UnitRows, solve_on_unit_rows
from balancer.statistics import Statistics

__all__ = ["AlignedMTL"]


class AlignedMTL:
    """d = sum_i l_i h_i, where the rows h_i are the g_i with all singular values replaced by one value s.

    With the eigenvalues S^2 and eigenvectors V of the Gramian, d = sum_i w_i g_i with w = s V S^-1 V' l, and
    |d| <= s |l|. Singular values of zero stay zero. With `min`, d therefore shrinks with the smallest value as rows
    become dependent, until they are dependent to six digits.

    The user's weights divided by their sum are l_i and do not multiply g_i. With equal weights this is the published
    method.

    Args:
        scale_mode: s is the smallest singular value (`min`), their median, the lower of two (`median`), or their root
            mean square (`rmse`). The smallest one is at most the norm of any gradient if these are independent.

    Raises:
        ValueError: The mode is unknown.
    """

    needs_gradients = True

    def __init__(self, scale_mode: Literal["min", "median", "rmse"] = "min") -> None:
        check_choice(("min", "median", "rmse"), scale_mode=scale_mode)
        self.scale_mode = scale_mode

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return solve_on_unit_rows(statistics, self._solve)

    def _solve(self, rows: UnitRows) -> Array:
        # The rank is that of the unit rows. This factor has the singular values of the gradients, and its small ones
        # are more exact than roots of the eigenvalues of the Gramian.
        values, vectors = np.linalg.eigh(rows.cosines)
        kept = values > 10 * ROUNDING
        factor = np.sqrt(values[kept])[:, None] * vectors[:, kept].T * rows.unweighted_norms
        _, singular, right = np.linalg.svd(factor, full_matrices=False)  # in descending order
        scale = {
            "min": singular[-1],
            "median": singular[len(singular) // 2],
            "rmse": np.sqrt(np.mean(singular**2)),
        }[self.scale_mode]
        shares = rows.user_weights / rows.user_weights.sum()
        return rows.unweighted_norms * (right.T @ (scale / singular * (right @ shares)))
