"""A convolution of an input with very few channels whose input gradient is cheap to compute."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["NarrowConv2d"]

_BLOCK = 16


class NarrowConv2d(nn.Conv2d):
    """`Conv2d` of stride 1 and "same" padding whose backward pass yields 16 bins of the input gradient at once.

    The gradient at an input of C channels is a convolution with C output channels, and CPU kernels compute 16 of them
    at the least: with the two channels of a complex spectrogram 7/8 of the work is thrown away. Here 16 neighbouring
    bins become channels: a kernel that is 15 bins wider, stepped by 16 bins, gives 16 C channels, all of them used.
    Every strategy that looks at each loss's gradient takes this way once a loss.

    Raises:
        ValueError: The kernel has an even size.

    Shape: [N, C, F, bins] -> [N, out_channels, F, bins].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int]) -> None:
        if any(size % 2 == 0 for size in kernel_size):
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        frames, bins = kernel_size
        super().__init__(in_channels, out_channels, kernel_size, padding=(frames // 2, bins // 2))

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input.detach())
        if not (torch.is_grad_enabled() and input.requires_grad):
            return output
        # Two ways lead back, torch's own to the weights and one to the input alone, and autograd takes those that end
        # at what is asked for. A function with both would compute both whenever either is wanted.
        weight, like = self.weight.detach(), output.detach()
        way_to_input = _InputGradient.apply(input, weight, like)  # type: ignore[no-untyped-call]
        joined: Tensor = _Joined.apply(output, way_to_input)  # type: ignore[no-untyped-call]
        return joined


class _Joined(torch.autograd.Function):
    """The first tensor, whose gradient is that of both."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, way: Tensor) -> Tensor:
        ctx.mark_dirty(output)  # else the result would be a view, which a leaky ReLU may not overwrite
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


class _InputGradient(torch.autograd.Function):
    """Zeros in the shape of a convolution's output, through which the output's gradient reaches the input."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, output: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return output.new_zeros(()).expand_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _input_gradient(gradient, weight.to(gradient.dtype)), None, None


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Shape: gradient [N, O, F, bins], weight [O, C, kf, kb] -> [N, C, F, bins]."""
    out_channels, channels, frames, bins = weight.shape
    blocks = -(-gradient.shape[-1] // _BLOCK)
    # The blocks begin so far before bin 0 that equal padding on both sides serves the first and the last of them.
    before = -(-(_BLOCK * blocks - gradient.shape[-1]) // 2)
    # Bin 16 q + r - before of the result is the correlation with the flipped kernel that starts r bins into block q.
    flipped = weight.flip(2, 3).transpose(0, 1)
    kernel = weight.new_zeros(_BLOCK, channels, out_channels, frames, _BLOCK + bins - 1)
    for r in range(_BLOCK):
        kernel[r, ..., r : r + bins] = flipped
    kernel = kernel.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    result = F.conv2d(gradient, kernel, stride=(1, _BLOCK), padding=(frames // 2, bins // 2 + before))
    # [N, 16 C, F, blocks] in channels_last: its memory is [N, F, blocks, 16, C] already.
    bins_last = result.permute(0, 2, 3, 1).unflatten(-1, (_BLOCK, channels)).flatten(2, 3)
    return bins_last[:, :, before : before + gradient.shape[-1]].permute(0, 3, 1, 2)
