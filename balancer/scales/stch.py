"""Smooth Tchebycheff scalarization (Lin et al. 2024, STCH)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.checks import check_names, check_range
from balancer.statistics import Statistics

__all__ = ["STCH"]


class STCH(nn.Module):
    """Gradient of μ ln Σ exp(λ_i (L_i - z*_i) / μ), a smooth maximum of the weighted losses.

    λ is the user's weights divided by their sum. The weight of a loss is λ_i softmax(λ (L - z*) / μ)_i and already
    contains λ_i once. The factor is the rest, softmax(...)_i / Σ l. It depends on the scales of the losses: the largest
    one dominates, unless weights or `ideal` level them or μ is as large as their differences.

    Args:
        mu: μ. Near 0 only the largest loss counts; for large values only the weights count.
        ideal: z* by loss name, the smallest possible value; 0 for losses that are not listed.

    Raises:
        ValueError: μ is not positive, or (in `prepare`) `ideal` has an unknown name.

    Buffers:
        ideal [M]: z*.
    """

    needs_gradients = False
    ideal: Tensor

    def __init__(self, mu: float = 1.0, ideal: Mapping[str, float] | None = None) -> None:
        super().__init__()
        check_range("(0, inf)", mu=mu)
        self.mu = mu
        self.ideal_by_name = dict(ideal or {})

    def prepare(self, weights: Mapping[str, float]) -> None:
        check_names(self.ideal_by_name, weights, "ideal")
        ideal = [self.ideal_by_name.get(name, 0.0) for name in weights]
        self.register_buffer("ideal", torch.tensor(ideal, dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        total = statistics.user_weights.sum()
        distances = statistics.losses - self.ideal[statistics.index]
        return torch.softmax(statistics.user_weights / total * distances / self.mu, dim=0) / total
