"""Which losses are active in a step: those with a finite value and a finite gradient that is not zero."""

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor

__all__ = ["classify", "gradient_peaks", "gradient_sizes"]


def gradient_peaks(gradients: Tensor) -> Tensor:
    """Largest magnitude in each gradient, infinity if an entry is not finite.

    Unlike a norm it cannot overflow.

    Shape: gradients [m, B, C, T] -> [m].
    """
    return torch.linalg.vector_norm(gradients.flatten(1), inf, 1).nan_to_num(nan=inf, posinf=inf)


def gradient_sizes(values: Tensor, peaks: Tensor | None) -> Tensor:
    """The peaks, and infinity where the loss is not finite. It takes place on the host, where it launches no kernel.

    Without gradients only the values are checked: the size of a finite loss is 1, or 0 if the loss is exactly 0, which
    is the minimum of a hinge loss.

    Args:
        values: Losses, means over processes: one that is not finite in any process is not finite here.

    Shape: values [m], peaks [m] -> [m] float64.
    """
    sizes = values.sign().abs() if peaks is None else peaks
    return sizes.masked_fill(~values.isfinite(), inf)


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
