"""How long the combined gradient is. Without a common rule strategies differ mostly in their length, and through it
in their ratio to the commitment loss and to the clipping threshold."""

from typing import Literal

import torch
from torch import Tensor

from balancer.statistics import Statistics

__all__ = ["Fixed", "Keep", "MatchSum", "SumOfNorms"]


class Keep:
    """As the direction left it."""

    needs_gradients = False

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        return torch.ones((), dtype=torch.float64, device=gradient.device)


class Fixed:
    """Always `norm` long; what is zero, or cancels to zero, is zero.

    Args:
        norm: The length.
        norm_over: `batch` is the length over everything, `item` the mean over the batch of each item's length,
            which leaves the items' gradients alike whatever the batch size.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(self, norm: float = 1.0, norm_over: Literal["item", "batch"] = "batch") -> None:
        if not 0 < norm < float("inf"):
            raise ValueError(f"norm must be positive, got {norm}")
        if norm_over not in ("item", "batch"):
            raise ValueError(f"norm_over must be item or batch, got {norm_over!r}")
        self.norm = norm
        self.norm_over = norm_over

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        length = statistics.item_length(gradient) if self.norm_over == "item" else statistics.length(gradient)
        return _factor(self.norm, length, statistics, weights, gradient)


class SumOfNorms:
    """As long as the lengths of the scaled gradients together: an upper bound that no conflict shortens."""

    needs_gradients = True

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        return _factor(statistics.norms.sum(), statistics.length(gradient), statistics, weights, gradient)


class MatchSum:
    """As long as the plain sum of the scaled gradients: strategies then differ in direction alone."""

    needs_gradients = True

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        # |sum of rows|^2 is the sum of all inner products; rounding may leave it just below zero.
        plain = statistics.gramian.sum().clamp_min(0).sqrt()
        return _factor(plain, statistics.length(gradient), statistics, weights, gradient)


def _factor(
    wanted: float | Tensor, length: Tensor, statistics: Statistics, weights: Tensor, gradient: Tensor
) -> Tensor:
    # Rows that cancel leave the rounding of their float32 sum, which has no direction worth a length.
    largest = weights.abs() if weights.ndim == 1 else weights.abs().amax(1)
    rounding = torch.finfo(torch.float32).eps * (largest * statistics.norms).sum()
    return torch.where(statistics.length(gradient) > rounding, wanted / length, torch.zeros_like(length))
