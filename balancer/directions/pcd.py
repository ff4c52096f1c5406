"""Priority-constrained descent: one loss leads, the others make sure of some progress (TMLR 2026, arXiv 2606.29521)."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from balancer.solvers import ROUNDING, nonnegative_minimum
from balancer.statistics import Statistics

__all__ = ["PCD"]

Array = NDArray[np.float64]


class PCD(nn.Module):
    """Follows the primary gradient as closely as the progress of all others permits.

    With h_i = g_i / sqrt(moving average of |g_i|^2), and p the primary loss,

        d = argmin |d - h_p|^2   subject to   h_j . d >= tau_j |h_j|^2   for all j other than p,

    rescaled to the length of g_p. If no d satisfies all of them (two others exactly opposed) d is g_p; while the
    primary loss is inactive d is 0, as without it there is nothing to follow.

    The constraints do not see how large g_j is, so the weight of a secondary loss is a preference: tau_j is tau times
    its weight over their mean, at most 1. With equal weights this is the published method, without its epsilon
    under the root, which at the output of a decoder is larger than the squares it is added to.

    Buffers:
        total [M], count [M]: discounted sum of squared lengths and of ones; their quotient is the average.

    Args:
        primary: Name of the loss that leads.
        tau: Guaranteed progress, as a share of what a step along the loss's own gradient would make.
        decay: Of the moving average.

    Raises:
        ValueError: A setting is out of range, or (in `prepare`) there is no such loss.
    """

    needs_gradients = True
    total: Tensor
    count: Tensor

    def __init__(self, primary: str, tau: float = 0.02, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= tau <= 1:
            raise ValueError(f"tau must be in [0, 1], got {tau}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.primary = primary
        self.tau = tau
        self.decay = decay

    def prepare(self, weights: Mapping[str, float]) -> None:
        if self.primary not in weights:
            raise ValueError(f"the primary loss must be one of {', '.join(weights)}, got {self.primary}")
        self.position = list(weights).index(self.primary)
        self.register_buffer("total", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index, norms = statistics.index, statistics.norms
        if not bool(norms.isfinite().all()):  # a scale gone wrong is not remembered
            return torch.full_like(norms, float("nan"))
        kept, fresh = statistics.remembered(self.decay)
        self.total[index] = kept * self.total[index] + fresh * norms.square()
        self.count[index] = kept * self.count[index] + fresh
        average = (self.total[index] / self.count[index]).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        leads = (index == self.position).cpu().numpy()
        if not leads.any():
            return torch.zeros_like(norms)
        lengths, users = (norms / average).cpu().numpy(), statistics.user_weights.cpu().numpy()
        preferences = users / users[~leads].mean() if len(users) > 1 else users
        progress = np.minimum(self.tau * preferences, 1.0) * lengths
        coefficients = _constrained(statistics.cosines.cpu().numpy(), leads, lengths, progress)
        weights = torch.from_numpy(coefficients).to(norms.device) * norms[index == self.position]
        return torch.where(norms > 0, weights / norms, 0.0)


def _constrained(cosines: Array, leads: NDArray[np.bool_], lengths: Array, progress: Array) -> Array:
    """Coefficients on the unit rows of the direction, at length 1.

    With d = h_p + x what is wanted is the shortest x with u_j . x >= b_j = progress_j - u_j . h_p, a problem of least
    distance (Lawson and Hanson 1974, chapter 23): with y >= 0 minimising |sum_j y_j u_j|^2 + (b . y - 1)^2, x is
    sum_j y_j u_j / (1 - b . y), and there is none if 1 - b . y, which is that minimum, is 0.

    Shape: cosines [m, m], leads [m] true at p, lengths [m], progress [m] -> [m]; zeros if d is zero.
    """
    coefficients = np.where(leads, lengths, 0.0)
    wanted = (progress - cosines @ coefficients)[~leads]
    if (wanted > 0).any():
        size = np.abs(wanted).max()
        wanted /= size
        others = cosines[np.ix_(~leads, ~leads)] + ROUNDING * np.eye(len(wanted))
        multipliers = nonnegative_minimum(others + np.outer(wanted, wanted), wanted[None])[0]
        minimum = 1 - wanted @ multipliers
        if minimum > _INFEASIBLE:
            coefficients[~leads] = size * multipliers / minimum
    length = np.sqrt((coefficients @ cosines @ coefficients).clip(0))
    rounding = 1e-7 * np.abs(coefficients).sum()
    return coefficients / length if length > rounding else np.zeros_like(coefficients)


_INFEASIBLE = 1e-9  # x would be tens of thousands of times as long as the largest b_j
