"""`torch.nn.functional` for signals [B, C, T] in a channels-last memory layout, for CPUs.

A CPU's convolution rearranges the input and the output of every layer unless their channels are contiguous. With up to
64 channels that takes as long as the convolution. torch has the memory format `channels_last` for images only, so a
signal is passed as an image of one row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cat", "conv1d", "conv_transpose1d", "pad", "trim"]

# With more weights, rearranging the weights dominates the cost of a layer, and the layout gains nothing.
_MOST_WEIGHTS = 1 << 20


def conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, dilation: int = 1, padding: int = 0
) -> Tensor:
    """`F.conv1d`.

    Shape: x [B, C, T], weight [C', C, kernel_size] -> [B, C', F].
    """
    if not _pays(x, weight):
        return F.conv1d(x, weight, bias, stride, padding, dilation)
    return F.conv2d(_image(x), weight.unsqueeze(2), bias, (1, stride), (0, padding), (1, dilation)).squeeze(2)


def conv_transpose1d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """`F.conv_transpose1d` without padding.

    Shape: x [B, C, F], weight [C, C', kernel_size] -> [B, C', (F - 1) * stride + kernel_size].
    """
    if not _pays(x, weight):
        return F.conv_transpose1d(x, weight, bias, stride)
    output = F.conv_transpose2d(_image(x), weight.unsqueeze(2), None, (1, stride))
    # The bias is added separately: its gradient in a transposed convolution takes up to half of the backward pass.
    return (output if bias is None else output.add_(bias.to(output.dtype)[:, None, None])).squeeze(2)


def pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """`F.pad` of the last axis that keeps the memory layout of `x`.

    Shape: [B, C, T] -> [B, C, left + T + right].
    """
    if mode == "reflect" and x.is_cuda and torch.are_deterministic_algorithms_enabled():
        # The gradient of torch's reflection is not deterministic.
        ends = x[..., 1 : left + 1].flip(-1), x[..., x.shape[-1] - right - 1 : -1].flip(-1)
        return torch.cat([ends[0], x, ends[1]], dim=-1)
    return F.pad(x.unsqueeze(2), (left, right, 0, 0), mode).squeeze(2)


def trim(x: Tensor, left: int, right: int) -> Tensor:
    """A slice of the last axis that keeps the memory layout of `x`, also in the backward pass.

    Shape: [B, C, T] -> [B, C, T - left - right].
    """
    if x.stride(1) != 1:
        return x[..., left : x.shape[-1] - right]
    return x.transpose(1, 2)[:, left : x.shape[-1] - right].transpose(1, 2)


def cat(pieces: Sequence[Tensor]) -> Tensor:
    """`torch.cat` along the last axis.

    Shape: [B, C, t] each -> [B, C, T].
    """
    return torch.cat([piece.transpose(1, 2) for piece in pieces], 1).transpose(1, 2)


def _pays(x: Tensor, weight: Tensor) -> bool:
    return x.device.type == "cpu" and weight.numel() <= _MOST_WEIGHTS


def _image(x: Tensor) -> Tensor:
    """Shape: [B, C, T] in any layout -> [B, C, 1, T] in `channels_last`."""
    # Flattened first: the strides of a signal with one channel do not tell which layout is meant.
    rows = x.transpose(1, 2)
    return rows.flatten().view(rows.shape).transpose(1, 2).unsqueeze(2)
