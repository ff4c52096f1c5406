"""No scale: the weights from the config are the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from balancer.statistics import Statistics

__all__ = ["Static"]


class Static:
    """Factor 1 for every loss; with the direction `sum` this is `(weight * loss).sum().backward()`."""

    needs_gradients = False

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return torch.ones_like(statistics.losses)
