"""No scale: the weights from the config are the weights."""

import torch
from torch import Tensor

from balancer.statistics import Statistics

__all__ = ["Static"]


class Static:
    """Factor 1 for every loss. With the direction `sum` this is the gradient of `(weight * loss).sum()`."""

    needs_gradients = False

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return torch.ones_like(statistics.losses)
