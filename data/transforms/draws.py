"""Random numbers of transforms."""

import torch

__all__ = ["draw"]


def draw(low: float, high: float, generator: torch.Generator) -> float:
    """A number that is uniform in [low, high)."""
    return low + float(torch.rand((), generator=generator)) * (high - low)
