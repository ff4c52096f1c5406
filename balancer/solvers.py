"""Convex problems of m unknowns, for directions that follow from the Gramian; float64 NumPy on the host.

They are posed on gradients of unit length, u_i = g_i / |g_i|, and the lengths come back at the end: a Gramian of raw
gradients, whose squared lengths spread over many decades, has lost the small ones to rounding. A direction
d = sum_i v_i u_i is given by its coefficients v [m].
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
    "on_unit_rows",
    "to_dual_cone",
]

Array = NDArray[np.float64]

# Cosines shrink by this: each row gets a part of its own of 1e-6 of its length. Gradients are float32, so smaller
# angles are rounding, and duplicate, opposed or dependent rows make a matrix that is still positive definite.
ROUNDING = 1e-12


class UnitRows(NamedTuple):
    """The gradients a direction sees."""

    cosines: Array  # [m, m], positive definite
    norms: Array  # [m], with the user's weights
    losses: Array  # [m], with the user's weights
    user_weights: Array  # [m]

    @property
    def preferences(self) -> Array:
        """The user's weights over their mean, for methods that do not see them in the norms."""
        return self.user_weights / self.user_weights.mean()

    @property
    def lengths(self) -> Array:
        """Norms without the user's weights."""
        return self.norms / self.user_weights


def on_unit_rows(statistics: Statistics, solve: Callable[[UnitRows], Array]) -> Tensor:
    """Weights of the gradients that make the direction whose coefficients on the unit rows `solve` finds.

    A gradient that a scale has made zero has no unit row; its weight is 0. Lengths or cosines that are not finite make
    all weights NaN, which tells the caller to skip the step.

    Shape: -> [m] float64.
    """
    norms = statistics.norms
    table = torch.cat([torch.stack([norms, statistics.losses, statistics.user_weights]), statistics.cosines])
    host = table.cpu().numpy()  # one read of the device
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

    Block principal pivoting (Júdice and Pires 1994; Kim and Park 2011): guess which x_i are positive, solve for
    those, exchange all that came out with the wrong sign; if that does not help for three rounds, exchange the last
    one alone, which cannot cycle. Two or three rounds are usual. SciPy 1.17's nnls is no alternative: where several
    x_i become positive together it now and then returns a point that is no minimum.

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


def to_dual_cone(cosines: Array, coefficients: Array) -> Array:
    """Projection of directions on {d : d . u_i >= 0 for all i}.

    It is d + sum_i x_i u_i with the x >= 0 that makes it shortest.

    Shape: cosines [m, m], coefficients [k, m] -> [k, m].
    """
    return coefficients + nonnegative_minimum(cosines, -coefficients @ cosines)


def min_norm_point(cosines: Array, lengths: Array) -> Array:
    """Weights, not negative and of sum 1, of the shortest convex combination of rows of these lengths.

    With h = 1 / lengths, minimise |sum_i x_i u_i|^2 + (h . x - 1)^2 over x >= 0: at the optimum sum_i x_i u_i is the
    point wanted, times h . x (Lawson and Hanson 1974, chapter 23).

    Shape: cosines [m, m], lengths [m] -> [m].
    """
    inverse = lengths.min() / lengths
    weights = inverse * nonnegative_minimum(cosines + np.outer(inverse, inverse), inverse[None])[0]
    return weights / weights.sum()


def fair_point(cosines: Array, lengths: Array, alpha: float) -> Array:
    """The v > 0 with u_i . d = e_i (e_i / v_i)^(1 / alpha) for d = sum_i v_i u_i, which is e where rows are orthogonal.

    It is where a convex function has its minimum, with y = v / e and K = (e_i e_j u_i . u_j):

        0.5 y' K y - sum_i e_i^2 y_i^(1 - 1 / alpha) / (1 - 1 / alpha)      (the logarithm of y_i for alpha = 1)

    Newton's method on it takes steps relative to y, which stay well scaled where nearly opposed rows want a large y.
    It converges for alpha in [0.5, 4] even if lengths spread over six decades.
    |v| stays below 1e6 |e|, thanks to a part of its own that each row gets: float32 sums of longer rows would be
    rounding.

    Shape: cosines [m, m], lengths e [m] -> [m].
    """
    own = 1e-6 ** (1 + 1 / alpha) * np.eye(len(lengths))
    matrix, squares = lengths[:, None] * (cosines + own) * lengths, lengths**2
    y, last = np.ones_like(lengths), np.inf
    for _ in range(100):
        push = squares * y ** (1 - 1 / alpha)
        slope = y * (matrix @ y) - push
        step = np.linalg.solve(y[:, None] * matrix * y + np.diag(push / alpha), -slope)
        descent = -float(slope @ step)
        if descent <= 1e-24 * push.sum() or last <= descent < 1e-6 * push.sum():  # solved, or down to rounding
            break
        y = y * (1 + step * min(1.0, 0.9 / max(-step.min(), 0.9)))  # at most nine tenths of the way to 0
        last = descent
    return lengths * y
