"""Smooth Tchebycheff scalarization (Lin et al. 2024)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["STCH"]


class STCH(nn.Module):
    """Gradient of μ ln Σ exp(λ_i (L_i - z*_i) / μ), a smooth maximum of the weighted losses (Lin et al. 2024).

    λ is the user's weights over their sum. The weight of a loss, λ_i softmax(λ (L - z*) / μ)_i, holds one λ_i
    already; the factor is the rest, softmax(...)_i / Σ l. It depends on the scales of the losses: whichever is largest
    takes all, unless weights or `ideal` level them or μ is of the size of their differences.

    Args:
        mu: μ; towards 0 only the worst loss counts, towards infinity the weights alone.
        ideal: Loss name -> z*, the least value it could have; 0 for those left out.

    Raises:
        ValueError: μ is not positive, or an ideal value belongs to no loss.

    Buffers:
        ideal [M]: z*.
    """

    needs_gradients = False
    ideal: Tensor

    def __init__(self, mu: float = 1.0, ideal: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if not 0 < mu < math.inf:
            raise ValueError(f"mu must be positive, got {mu}")
        self.mu = mu
        self.ideals = dict(ideal or {})

    def prepare(self, weights: Mapping[str, float]) -> None:
        unknown = sorted(set(self.ideals) - set(weights))
        if unknown:
            raise ValueError(f"ideal values must belong to {list(weights)}, got one for {', '.join(unknown)}")
        ideal = [self.ideals.get(name, 0.0) for name in weights]
        self.register_buffer("ideal", torch.tensor(ideal, dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        total = statistics.user_weights.sum()
        distances = statistics.losses - self.ideal[statistics.index]
        return torch.softmax(statistics.user_weights / total * distances / self.mu, dim=0) / total
