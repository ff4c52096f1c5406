"""Means and norms of many tensors of different sizes, in a few kernels for all of them."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["mean_weights", "row_norms"]


@functools.lru_cache(maxsize=8)  # each entry is as large as its tensors; held-out clips have many sizes
def mean_weights(
    sizes: Sequence[int], factors: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Weights w of the concatenation x of tensors x_k for which mean(w x) = Σ_k factors_k mean(x_k).

    They are copied to the device once for each size, because the host waits for such a copy.

    Args:
        sizes: Number of elements of each tensor, a tuple.
        factors: Weight of each mean, a tuple.

    Shape: -> [sum of sizes].
    """
    with torch.inference_mode(False):  # tensors made in inference mode cannot be used for gradients
        weights = [factor * sum(sizes) / size for factor, size in zip(factors, sizes, strict=True)]
        return torch.tensor(weights, dtype=dtype).repeat_interleave(torch.tensor(sizes)).to(device)


def row_norms(matrices: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
    """L2 norms of the rows of several matrices, which lie one after the other. The gradient of a norm of 0 is 0.

    Args:
        shapes: [rows, columns] of each.

    Shape: matrices [sum of rows * columns] -> [sum of rows].
    """
    norms: Tensor = _RowNorms.apply(matrices, shapes)
    return norms


class _RowNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        ctx.shapes = shapes
        norms = torch.cat([torch.linalg.vector_norm(each, dim=1) for each in _split(matrices, shapes)])
        ctx.save_for_backward(matrices, norms)
        return norms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        matrices, norms = ctx.saved_tensors
        slopes = torch.where(norms > 0, gradient / norms, 0.0).split([rows for rows, _ in ctx.shapes])
        result = torch.empty_like(matrices)
        parts = zip(_split(matrices, ctx.shapes), slopes, _split(result, ctx.shapes), strict=True)
        for each, slope, out in parts:
            torch.mul(each, slope[:, None], out=out)
        return result, None


def _split(matrices: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = matrices.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
