"""Convolutions with the padding arithmetic of EnCodec (Défossez et al. 2022, section 3.1).

A `Conv1d` of stride s maps T samples to ceil(T / s) frames and a `ConvTranspose1d` maps F frames to F * s, so a
decoder that mirrors its encoder returns at least as many samples as went in. Each layer knows its own padding
and nothing of its neighbours; a streaming mode needs no more than `left_padding` and the layer itself.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from codec.network import channels_last
from codec.network.activations import CELU, padded_celu

__all__ = ["Conv1d", "ConvTranspose1d", "fold_weight_norm", "pad", "scale_of"]

Norm = Literal["weight_norm", "time_group_norm", "none"]

_FEW_CHANNELS = 2


class Conv1d(nn.Module):
    """Strided, dilated convolution whose output has ceil(T / stride) frames.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation: As in `torch.nn.Conv1d`.
        causal: Pad on the left only; otherwise on both sides, the odd sample on the left.
        norm: Weight norm, a group norm with one group behind the convolution, or none.
        padding: `reflect` or `constant` (zeros).

    Shape: [B, C, T] -> [B, C', ceil(T / stride)].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool,
        norm: Norm,
        padding: Literal["reflect", "constant"],
    ) -> None:
        super().__init__()
        kind = _NarrowConv1d if out_channels <= _FEW_CHANNELS and stride == dilation == 1 else _Conv1d
        conv = kind(in_channels, out_channels, kernel_size, stride, dilation=dilation)
        self.conv = weight_norm(conv) if norm == "weight_norm" else conv
        self.norm = nn.GroupNorm(1, out_channels) if norm == "time_group_norm" else nn.Identity()
        self.stride = stride
        self.padding = padding
        # A window of k samples moved by s overlaps its neighbour by k - s: with that many samples of padding in
        # all, frame i starts s * i samples in, and T samples (T a multiple of s) give exactly T / s frames.
        self.overlap = (kernel_size - 1) * dilation + 1 - stride
        self.right_padding = 0 if causal else self.overlap // 2
        self.left_padding = self.overlap - self.right_padding

    def forward(self, x: Tensor, activation: CELU | None = None) -> Tensor:
        """Of x after `activation`, which then writes between the padding."""
        # The last window may be incomplete: fill it up, or its samples would be lost.
        missing = -x.shape[-1] % self.stride
        left, right = self.left_padding, self.right_padding + missing
        if activation is None:
            padded = pad(x, left, right, self.padding)
        elif x.device.type == "cpu" and 0 < max(left, right) < x.shape[-1]:
            padded = padded_celu(x, activation.alpha, left, right, self.padding)
        else:
            padded = pad(activation(x), left, right, self.padding)
        y: Tensor = self.conv(padded)
        return self.norm(y)


class _Conv1d(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return channels_last.conv1d(input, self.weight, self.bias, self.stride[0], self.dilation[0])


class _ConvTranspose1d(nn.ConvTranspose1d):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return channels_last.conv_transpose1d(input, self.weight, self.bias, self.stride[0])


class _NarrowConv1d(_Conv1d):
    """`Conv1d` of stride 1 without padding to a channel or two, as at a decoder's end, made for CPUs.

    Their kernels compute 16 channels at the least, so that the backward pass throws most of its work away. Here it is
    two matrix products with as many rows as the weight has taps: a quarter of the time.

    Shape: [B, C, T] -> [B, C', T - kernel_size + 1].
    """

    def forward(self, input: Tensor) -> Tensor:
        device_type = input.device.type
        if device_type != "cpu" or not torch.is_grad_enabled() or torch.is_autocast_enabled(device_type):
            return super().forward(input)
        output: Tensor = _NarrowConvolution.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return output


class _NarrowConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(signal, weight)
        return channels_last.conv1d(signal, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        # y_t = Σ_k W_k x_{t+k}, so x_s gets Σ_k W_k' dy_{s-k} and W_k gets Σ_s dy_{s-k} x_s'. Row i of what is unfolded
        # is dy moved by kernel - 1 - i samples: the taps from the last to the first.
        signal, weight = ctx.saved_tensors
        reach = weight.shape[-1] - 1
        moved = F.pad(gradient, (reach, reach)).unfold(-1, signal.shape[-1], 1).flatten(1, 2)  # [B, C' kernel, T]
        taps = weight.flip(-1).permute(0, 2, 1).flatten(0, 1)  # [C' kernel, C]
        at_weight = (moved @ signal.transpose(1, 2)).sum(0).unflatten(0, (len(weight), -1)).flip(1).transpose(1, 2)
        at_signal = (moved.transpose(1, 2) @ taps).transpose(1, 2)  # with its channels side by side, as the signal has
        return at_signal, at_weight, gradient.sum((0, 2)) if ctx.needs_input_grad[2] else None


class ConvTranspose1d(nn.Module):
    """Transposed convolution whose output has exactly F * stride samples.

    The kernel - stride samples by which neighbouring windows overhang are trimmed: all on the right when
    causal, else on both sides.

    Shape: [B, C, F] -> [B, C', F * stride].
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int, causal: bool, norm: Norm
    ) -> None:
        super().__init__()
        conv = _ConvTranspose1d(in_channels, out_channels, kernel_size, stride)
        self.conv = weight_norm(conv) if norm == "weight_norm" else conv
        self.norm = nn.GroupNorm(1, out_channels) if norm == "time_group_norm" else nn.Identity()
        self.stride = stride
        self.overhang = kernel_size - stride
        self.right_trim = self.overhang if causal else self.overhang // 2
        self.left_trim = self.overhang - self.right_trim

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return channels_last.trim(y, self.left_trim, self.right_trim)


def pad(x: Tensor, left: int, right: int, mode: Literal["reflect", "constant"]) -> Tensor:
    """Pads the last axis; `reflect` also works on inputs shorter than the padding.

    A reflection needs more samples than it adds. Shorter inputs are first filled with zeros on the right, and
    what the fill displaced is cut again, as encodec does.

    Shape: [B, C, T] -> [B, C, left + T + right].
    """
    if left == right == 0:
        return x
    if mode == "constant":
        return channels_last.pad(x, left, right, mode)
    fill = max(0, max(left, right) + 1 - x.shape[-1])
    padded = channels_last.pad(F.pad(x, (0, fill)) if fill else x, left, right, mode)
    return padded[..., : padded.shape[-1] - fill] if fill else padded


def fold_weight_norm(module: nn.Module) -> None:
    """Replaces every weight-norm parametrization below `module` by the weight it computes, in place.

    The outputs stay the same and each forward pass saves the recomputation; the module is no longer trainable
    in the same parametrization.
    """
    for layer in module.modules():
        if torch.nn.utils.parametrize.is_parametrized(layer, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")


def scale_of(layer: Conv1d | ConvTranspose1d) -> nn.Parameter:
    """What a convolution's weights are proportional to: the lengths that weight norm gives them, or they themselves."""
    normed = torch.nn.utils.parametrize.is_parametrized(layer.conv, "weight")
    return layer.conv.get_parameter("parametrizations.weight.original0" if normed else "weight")
