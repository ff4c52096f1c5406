"""Steps for scales that use loss values only."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from balancer.statistics import Statistics
from balancer.strategy import Scale, UsesLossWeights

__all__ = ["names", "prepared", "step"]

S = TypeVar("S", bound=Scale)


def names(size: int) -> list[str]:
    return [chr(ord("a") + i) for i in range(size)]


def prepared(scale: S, size: int = 2) -> S:
    """The scale, prepared for `size` losses a, b, ... with weight 1."""
    if isinstance(scale, UsesLossWeights):
        scale.prepare(dict.fromkeys(names(size), 1.0))
    return scale


def step(values: Sequence[float] | Tensor, index: Sequence[int] | None = None) -> Statistics:
    """A step with losses of these values and weight 1: the first losses, or those at `index`."""
    losses = torch.as_tensor(values, dtype=torch.float64)
    positions = torch.arange(len(losses)) if index is None else torch.tensor(index)
    return Statistics(positions, losses, torch.ones_like(losses), None)
