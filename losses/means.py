"""Constants on the device, and means and norms of many tensors of different sizes in a few kernels for all of them."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["constant", "mean_weights", "row_norms"]

_SMALLEST_NORM = 1e-30


@functools.lru_cache(maxsize=16)  # each entry is as large as its tensors; held-out clips have many sizes
def mean_weights(
    sizes: Sequence[int], factors: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Weights w of the concatenation x of tensors x_k for which sum(w x) = Σ_k factors_k mean(x_k).

    They are copied to the device once for each size, because the host waits for such a copy.

    Args:
        sizes: Number of elements of each tensor, a tuple.
        factors: Weight of each mean, a tuple.

    Shape: -> [sum of sizes].
    """
    with torch.inference_mode(False):  # tensors made in inference mode cannot be used for gradients
        weights = [factor / size for factor, size in zip(factors, sizes, strict=True)]
        return torch.tensor(weights, dtype=dtype).repeat_interleave(torch.tensor(sizes)).to(device)


@functools.lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A vector that is copied to the device once, because the host waits for such a copy.

    Shape: -> [n].
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def row_norms(matrices: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
    """L2 norms of the rows of several matrices, which lie one after the other. The gradient of a norm of 0 is 0.

    Args:
        shapes: [rows, columns] of each.

    Shape: matrices [sum of rows * columns] -> [sum of rows].
    """
    merged: list[tuple[int, int]] = []  # neighbours with the same number of columns are one matrix
    for rows, columns in shapes:
        if merged and merged[-1][1] == columns:
            rows += merged.pop()[0]
        merged.append((rows, columns))
    norms: Tensor = _RowNorms.apply(matrices, merged)
    return norms


class _RowNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        ctx.shapes = shapes
        norms = matrices.new_empty(sum(rows for rows, _ in shapes))
        outs = norms.split([rows for rows, _ in shapes])
        for each, out in zip(_split(matrices, shapes), outs, strict=True):
            torch.linalg.vector_norm(each, dim=1, out=out)
        ctx.save_for_backward(matrices, norms)
        return norms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        matrices, norms = ctx.saved_tensors
        # The elements of a row are 0 if its norm is. The smallest divisor only keeps the product from being NaN.
        slopes = (gradient / norms.clamp(min=_SMALLEST_NORM)).split([rows for rows, _ in ctx.shapes])
        result = torch.empty_like(matrices)
        parts = zip(_split(matrices, ctx.shapes), slopes, _split(result, ctx.shapes), strict=True)
        for each, slope, out in parts:
            torch.mul(each, slope[:, None], out=out)
        return result, None


def _split(matrices: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    parts = matrices.split([rows * columns for rows, columns in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
