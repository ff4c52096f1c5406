"""Random loss weighting (Lin et al. 2022)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["RLW"]


class RLW(nn.Module):
    """softmax(z) with z drawn anew from N(0, I) in every step (Lin et al. 2022, "Reasonable effectiveness of random
    weighting"): the baseline a method that learns its weights has to beat.

    The factors are positive and sum to 1. All M losses take part in every draw, so that what a loss is dealt does not
    depend on whether another is there. The generator is the scale's own, on the CPU: nothing else in the run shifts
    its draws, they are the same on every rank, and its state is part of the state.

    Args:
        seed: Of the generator.
    """

    needs_gradients = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.size = len(weights)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        draws = torch.randn(self.size, generator=self.generator, dtype=torch.float64)
        return torch.softmax(draws.to(statistics.index.device)[statistics.index], dim=0)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())
