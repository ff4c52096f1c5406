"""Priority-constrained descent (TMLR 2026, arXiv 2606.29521): a primary gradient, and some progress for the others."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from balancer.checks import check_names, check_range
from balancer.moving_average import MovingAverage
from balancer.solvers import ROUNDING, Array, nonnegative_minimum
from balancer.statistics import Statistics

__all__ = ["PCD"]

_INFEASIBLE = 1e-9  # x would be tens of thousands of times as long as the largest b_j


class PCD(nn.Module):
    """The direction nearest to the primary gradient that makes progress on all other losses.

    With h_i = g_i / sqrt(moving average of |g_i|^2), and p the primary loss,

        d = argmin |d - h_p|^2   subject to   h_j . d >= tau_j |h_j|^2   for all j other than p,

    rescaled to the norm of g_p. If no d satisfies all constraints (two opposed secondary losses), d is g_p. In steps
    without the primary loss d is 0.

    The constraints do not depend on the norm of g_j, so the weight of a secondary loss is a preference: tau_j is tau
    times its weight over the mean of these weights, at most 1. With equal weights this is the published method without
    its epsilon under the root. At the decoder output that epsilon would be larger than the squared norms.

    Args:
        primary: Name of the primary loss.
        tau: Guaranteed progress, as a fraction of the progress of a step along the loss's own gradient.
        decay: Decay of the moving average.

    Raises:
        ValueError: A setting is out of range, or (in `prepare`) the primary loss does not exist.
    """

    needs_gradients = True

    def __init__(self, primary: str, tau: float = 0.02, decay: float = 0.999) -> None:
        super().__init__()
        check_range("[0, 1]", tau=tau)
        check_range("[0, 1)", decay=decay)
        self.primary = primary
        self.tau = tau
        self.decay = decay

    def prepare(self, weights: Mapping[str, float]) -> None:
        check_names([self.primary], weights, "primary")
        self.position = list(weights).index(self.primary)
        self.average = MovingAverage(len(weights), self.decay)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index, norms = statistics.index, statistics.norms
        if not bool(norms.isfinite().all()):  # do not let them change the averages
            return torch.full_like(norms, float("nan"))
        root_mean_square = self.average(statistics, norms.square()).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        is_primary = (index == self.position).cpu().numpy()
        if not is_primary.any():
            return torch.zeros_like(norms)
        lengths, users = (norms / root_mean_square).cpu().numpy(), statistics.user_weights.cpu().numpy()
        preferences = users / users[~is_primary].mean() if len(users) > 1 else users
        progress = np.minimum(self.tau * preferences, 1.0) * lengths
        coefficients = _constrained(statistics.cosines.cpu().numpy(), is_primary, lengths, progress)
        weights = torch.from_numpy(coefficients).to(norms.device) * norms[index == self.position]
        return torch.where(norms > 0, weights / norms, 0.0)


def _constrained(cosines: Array, is_primary: NDArray[np.bool_], lengths: Array, progress: Array) -> Array:
    """Coefficients on the unit rows of the direction, at norm 1.

    With d = h_p + x the problem is to find the shortest x with u_j . x >= b_j = progress_j - u_j . h_p, a least
    distance problem (Lawson and Hanson 1974, chapter 23). Let y >= 0 minimise |sum_j y_j u_j|^2 + (b . y - 1)^2. Then
    x is sum_j y_j u_j / (1 - b . y). There is no solution if 1 - b . y, the value of that minimum, is 0.

    Shape: cosines [m, m], is_primary [m], lengths [m], progress [m] -> [m]; zeros if d is zero.
    """
    coefficients = np.where(is_primary, lengths, 0.0)
    missing = (progress - cosines @ coefficients)[~is_primary]
    if (missing > 0).any():
        size = np.abs(missing).max()
        missing /= size
        others = cosines[np.ix_(~is_primary, ~is_primary)] + ROUNDING * np.eye(len(missing))
        multipliers = nonnegative_minimum(others + np.outer(missing, missing), missing[None])[0]
        minimum = 1 - missing @ multipliers
        if minimum > _INFEASIBLE:
            coefficients[~is_primary] = size * multipliers / minimum
    norm = np.sqrt((coefficients @ cosines @ coefficients).clip(0))
    rounding = 1e-7 * np.abs(coefficients).sum()
    return coefficients / norm if norm > rounding else np.zeros_like(coefficients)
