"""The factor that gives a combined gradient a certain norm."""

import torch
from torch import Tensor

from balancer.statistics import Statistics, like

__all__ = ["norm_ratio"]


def norm_ratio(
    target: float | Tensor, norm: Tensor, statistics: Statistics, weights: Tensor, gradient: Tensor
) -> Tensor:
    """target / norm, or 0 if the gradients cancel down to rounding, because then the result has no direction.

    Shape: norm [], weights [m] or [m, n], gradient [n] -> [] float64.
    """
    largest = weights.abs() if weights.ndim == 1 else weights.abs().amax(1).double()
    rounding = torch.finfo(torch.float32).eps * (largest * like(statistics.norms, largest)).sum()
    return torch.where(statistics.norm(gradient) > rounding, target / norm, torch.zeros_like(norm))
