"""Random loss weighting (Lin et al. 2022, "Reasonable effectiveness of random weighting")."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.seeded_generator import SeededGenerator
from balancer.statistics import Statistics

__all__ = ["RLW"]


class RLW(nn.Module):
    """softmax(z) with z drawn from N(0, I) in every step: the baseline that learnt weights must beat.

    The factors are positive and sum to 1. Every draw is for all M losses, so the draws do not depend on which losses
    are active.

    Args:
        seed: Seed of the draws.
    """

    needs_gradients = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.draws = SeededGenerator(seed)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.size = len(weights)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        draws = torch.randn(self.size, generator=self.draws.generator, dtype=torch.float64)
        return torch.softmax(draws.to(statistics.index.device)[statistics.index], dim=0)
