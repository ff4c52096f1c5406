"""No magnitude: the combined gradient keeps the norm that the direction gives it."""

import torch
from torch import Tensor

from balancer.statistics import Statistics

__all__ = ["Keep"]


class Keep:
    """Factor 1."""

    needs_gradients = False

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        return torch.ones((), dtype=torch.float64, device=gradient.device)
