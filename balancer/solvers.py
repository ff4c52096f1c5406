"""Convex problems with m unknowns for directions that follow from the Gramian, in float64 NumPy on the host.

The problems are posed on gradients of unit norm, u_i = g_i / |g_i|, and the norms are applied at the end. In a Gramian
of raw gradients with very different norms, the small entries would be lost to rounding. A direction d = sum_i v_i u_i
is given by its coefficients v [m].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from balancer.statistics import Statistics

__all__ = [
    "ROUNDING",
    "Array",
    "UnitRows",
    "fair_point",
    "min_norm_point",
    "nonnegative_minimum",
    "project_to_dual_cone",
    "solve_on_unit_rows",
]

Array = NDArray[np.float64]

# Cosines are reduced by this factor, which gives each row a component of its own of 1e-6 of its norm. Gradients are
# float32, so smaller angles are rounding. Duplicate, opposed or dependent rows then have a positive definite matrix.
ROUNDING = 1e-12


class UnitRows(NamedTuple):
    """The gradients that a direction combines."""

    cosines: Array  # [m, m], positive definite
    norms: Array  # [m], with the user's weights
    losses: Array  # [m], with the user's weights
    user_weights: Array  # [m]

    @property
    def preferences(self) -> Array:
        """The user's weights divided by their mean, for methods that do not use them in the norms."""
        return self.user_weights / self.user_weights.mean()

    @property
    def unweighted_norms(self) -> Array:
        """Norms without the user's weights."""
        return self.norms / self.user_weights


def solve_on_unit_rows(statistics: Statistics, solve: Callable[[UnitRows], Array]) -> Tensor:
    """Weights of the gradients for the direction whose coefficients on the unit rows `solve` returns.

    A zero gradient has no unit row; its weight is 0. If norms or cosines are not finite, all weights are NaN, and the
    caller skips the step.

    Shape: -> [m] float64.
    """
    norms = statistics.norms
    table = torch.cat([torch.stack([norms, statistics.losses, statistics.user_weights]), statistics.cosines])
    host = table.cpu().numpy()  # one transfer from the device
    if not np.isfinite(host).all():
        return torch.full_like(norms, float("nan"))
    rows = host[0] > 0
    weights = np.zeros(len(rows))
    if rows.any():
        cosines = (1 - ROUNDING) * host[3:][np.ix_(rows, rows)] + ROUNDING * np.eye(rows.sum())
        weights[rows] = solve(UnitRows(cosines, *host[:3, rows])) / host[0, rows]
    return torch.from_numpy(weights).to(norms.device)


def nonnegative_minimum(matrix: Array, linear: Array) -> Array:
    """argmin of 0.5 x' Q x - q . x over x >= 0, for each row q of `linear`.

    Block principal pivoting (Júdice and Pires 1994; Kim and Park 2011): guess which x_i are positive, solve for them,
    and exchange all that have the wrong sign. After three rounds without progress exchange only the last one, which
    cannot cycle. Two or three rounds are usual. SciPy 1.17's nnls is not an alternative: if several x_i become positive
    together, it sometimes returns a point that is not a minimum.

    Shape: matrix Q [m, m] positive definite, linear [k, m] -> [k, m].
    """
    identity, tolerance = np.eye(len(matrix)), 1e-13 * np.abs(linear).max(1, keepdims=True)
    positive = np.zeros(linear.shape, dtype=bool)
    fewest, patience = np.full(len(linear), len(matrix) + 1), np.full(len(linear), 3)
    x = np.zeros_like(linear)
    for _ in range(100):
        pairs = positive[:, :, None] & positive[:, None, :]
        x = np.linalg.solve(np.where(pairs, matrix, identity), np.where(positive, linear, 0.0)[:, :, None])[:, :, 0]
        wrong = np.where(positive, x, x @ matrix - linear) < -tolerance
        count = wrong.sum(1)
        if not count.any():
            break
        better = count < fewest
        fewest, patience = np.where(better, count, fewest), np.where(better, 3, patience - 1)
        last = np.cumsum(wrong[:, ::-1], axis=1)[:, ::-1] == 1
        positive ^= wrong & (last | (patience >= 0)[:, None])
    return x.clip(0)


def project_to_dual_cone(cosines: Array, coefficients: Array) -> Array:
    """Projection of directions on {d : d . u_i >= 0 for all i}.

    It is d + sum_i x_i u_i with the x >= 0 that minimises its norm.

    Shape: cosines [m, m], coefficients [k, m] -> [k, m].
    """
    return coefficients + nonnegative_minimum(cosines, -coefficients @ cosines)


def min_norm_point(cosines: Array, norms: Array) -> Array:
    """Weights >= 0 with sum 1 of the shortest convex combination of rows with these norms.

    With h = 1 / norms, minimise |sum_i x_i u_i|^2 + (h . x - 1)^2 over x >= 0. At the optimum sum_i x_i u_i is the
    shortest point times h . x (Lawson and Hanson 1974, chapter 23).

    Shape: cosines [m, m], norms [m] -> [m].
    """
    inverse = norms.min() / norms
    weights = inverse * nonnegative_minimum(cosines + np.outer(inverse, inverse), inverse[None])[0]
    return weights / weights.sum()


def fair_point(cosines: Array, scales: Array, alpha: float) -> Array:
    """The v > 0 with u_i . d = e_i (e_i / v_i)^(1 / alpha) for d = sum_i v_i u_i. Orthogonal rows have v = e.

    With y = v / e and K = (e_i e_j u_i . u_j), it minimises the convex function

        0.5 y' K y - sum_i e_i^2 y_i^(1 - 1 / alpha) / (1 - 1 / alpha)      (the logarithm of y_i for alpha = 1)

    Newton's method takes steps relative to y, which are well scaled even if nearly opposed rows need a large y. It
    converges for alpha in [0.5, 4] with norms that spread over six decades. |v| stays below 1e6 |e|, because each row
    gets a component of its own: sums of longer float32 rows would be rounding.

    Shape: cosines [m, m], scales e [m] -> [m].
    """
    own = 1e-6 ** (1 + 1 / alpha) * np.eye(len(scales))
    matrix, squares = scales[:, None] * (cosines + own) * scales, scales**2
    y, last = np.ones_like(scales), np.inf
    for _ in range(100):
        push = squares * y ** (1 - 1 / alpha)
        slope = y * (matrix @ y) - push
        step = np.linalg.solve(y[:, None] * matrix * y + np.diag(push / alpha), -slope)
        descent = -float(slope @ step)
        if descent <= 1e-24 * push.sum() or last <= descent < 1e-6 * push.sum():  # converged, or limited by rounding
            break
        y = y * (1 + step * min(1.0, 0.9 / max(-step.min(), 0.9)))  # at most nine tenths of the way to 0
        last = descent
    return scales * y
