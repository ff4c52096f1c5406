"""A convolution of an input with very few channels whose input gradient is cheap to compute."""

from typing import Any

import torch
from torch import Tensor, nn
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
        weight, bias = self.weight, self.bias
        device_type = input.device.type
        if torch.is_autocast_enabled(device_type):  # it does not reach into the function's backward pass
            dtype = torch.get_autocast_dtype(device_type)
            input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        output: Tensor = _Convolution.apply(input, weight, bias)  # type: ignore[no-untyped-call]
        return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(signal, weight)
        ctx.bias_size = None if bias is None else list(bias.shape)
        with torch.autocast(signal.device.type, enabled=False):
            return F.conv2d(signal, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        signal, weight = ctx.saved_tensors
        padding = [weight.shape[2] // 2, weight.shape[3] // 2]
        at_signal = _input_gradient(gradient, weight) if ctx.needs_input_grad[0] else None
        mask = [False, ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        at_weight = at_bias = None
        if any(mask):
            _, at_weight, at_bias = torch.ops.aten.convolution_backward(
                gradient, signal, weight, ctx.bias_size, [1, 1], padding, [1, 1], False, [0, 0], 1, mask
            )
        return at_signal, at_weight, at_bias


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Shape: gradient [N, O, F, bins], weight [O, C, kf, kb] -> [N, C, F, bins]."""
    out_channels, channels, frames, bins = weight.shape
    blocks = -(-gradient.shape[-1] // _BLOCK)
    # Bin 16 q + r of the result is the correlation with the flipped kernel that starts r bins into block q.
    flipped = weight.flip(2, 3).transpose(0, 1)
    kernel = weight.new_zeros(_BLOCK, channels, out_channels, frames, _BLOCK + bins - 1)
    for r in range(_BLOCK):
        kernel[r, ..., r : r + bins] = flipped
    kernel = kernel.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    reach = bins // 2
    padded = F.pad(gradient, (reach, _BLOCK * blocks - gradient.shape[-1] + reach))
    result = F.conv2d(padded, kernel, stride=(1, _BLOCK), padding=(frames // 2, 0))
    # [N, 16 C, F, blocks] in channels_last: its memory is [N, F, blocks, 16, C] already.
    bins_last = result.permute(0, 2, 3, 1).unflatten(-1, (_BLOCK, channels)).flatten(2, 3)
    return bins_last[:, :, : gradient.shape[-1]].permute(0, 3, 1, 2)
