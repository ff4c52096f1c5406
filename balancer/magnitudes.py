"""How long the combined gradient is. Without a common rule strategies differ mostly in their length, and through it
in their ratio to the commitment loss and to the clipping threshold."""

import torch
from torch import Tensor

from balancer.statistics import Statistics

__all__ = ["Fixed", "Keep"]


class Keep:
    """As the direction left it."""

    needs_gradients = False

    def __call__(self, statistics: Statistics, weights: Tensor) -> Tensor:
        """Shape: weights [m] -> [] float64."""
        return torch.ones_like(weights[0])


class Fixed:
    """Always `norm` long in the flattened Euclidean norm over the batch; what is zero, or cancels to zero, is zero.

    Args:
        norm: The length.

    Raises:
        ValueError: The length is not positive.
    """

    needs_gradients = True

    def __init__(self, norm: float = 1.0) -> None:
        if not 0 < norm < float("inf"):
            raise ValueError(f"norm must be positive, got {norm}")
        self.norm = norm

    def __call__(self, statistics: Statistics, weights: Tensor) -> Tensor:
        """Shape: weights [m] -> [] float64."""
        weighted = statistics.scaled(weights)
        # |sum of rows|^2 is the sum of all inner products; rounding may leave it just below zero.
        length = weighted.gramian.sum().clamp_min(0).sqrt()
        # Rows that cancel leave the rounding of their float32 sum, which has no direction worth a length.
        rounding = torch.finfo(torch.float32).eps * weighted.norms.sum()
        return torch.where(length > rounding, self.norm / length, torch.zeros_like(length))
