"""Which losses are active in a step: those with a finite value and a finite gradient that is not zero."""

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor

__all__ = ["classify", "gradient_sizes"]


def gradient_sizes(values: Tensor, gradients: Tensor | None) -> Tensor:
    """Largest magnitude in each gradient, and infinity where it or the loss is not finite.

    Without gradients only the values are checked: the size of a finite loss is 1, or 0 if the loss is exactly 0, which
    is the minimum of a hinge loss.

    Shape: values [m], gradients [m, B, C, T] -> [m] float64.
    """
    # The largest entry cannot overflow, unlike a norm, and it is NaN or inf if and only if an entry is.
    if gradients is None:
        peaks = values.sign().abs()
    else:
        peaks = torch.linalg.vector_norm(gradients.flatten(1), inf, 1).double()
    return (peaks + (values - values)).nan_to_num(nan=inf, posinf=inf)  # values - values is NaN if one is not finite


def classify(losses: Mapping[str, Tensor], sizes: Sequence[float]) -> tuple[list[str], tuple[str, ...]]:
    """Names of the active losses, and of those that are not finite.

    Args:
        sizes: See `gradient_sizes`.
    """
    by_name = dict(zip(losses, sizes, strict=True))
    dropped = tuple(name for name, size in by_name.items() if not size < float("inf"))
    # Below the smallest normal float32 a gradient counts as zero: dividing by its norm would overflow.
    smallest = torch.finfo(torch.float32).tiny
    active = [name for name, size in by_name.items() if smallest <= size < float("inf") and losses[name].requires_grad]
    return active, dropped
