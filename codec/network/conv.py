"""Convolutions with the padding arithmetic of EnCodec (Défossez et al. 2022, section 3.1), and their streams.

A `Conv1d` of stride s maps T samples to ceil(T / s) frames. A `ConvTranspose1d` maps F frames to F * s samples. A
decoder that mirrors its encoder therefore returns at least as many samples as went in.
"""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from codec.network import channels_last
from codec.network.stream import join, rest

__all__ = ["Conv1d", "ConvTranspose1d", "Norm", "Padding", "fold_weight_norm", "pad", "weight_gain"]

Norm = Literal["weight_norm", "time_group_norm", "none"]
Padding = Literal["reflect", "constant"]

# A CPU's convolution rearranges all its weights at every call, which costs more than a few frames do. Up to this number
# of frames, over all signals, a stream multiplies matrices instead.
_FEW_FRAMES = 16


class Conv1d(nn.Module):
    """Strided, dilated convolution whose output has ceil(T / stride) frames.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation: As in `torch.nn.Conv1d`.
        causal: Pad on the left only; otherwise on both sides, with the odd sample on the left.
        norm: Weight norm; a group norm with one group after the convolution; or none.
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
        padding: Padding,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        # A window of k samples moved by s overlaps its neighbour by k - s. With that many samples of padding in all,
        # frame i starts s * i samples in, and T samples (T a multiple of s) give exactly T / s frames.
        self.overlap = (kernel_size - 1) * dilation + 1 - stride
        self.right_padding = 0 if causal else self.overlap // 2
        self.left_padding = self.overlap - self.right_padding
        # The convolution pads zeros itself, without a copy of its input. It has as many on both sides.
        self.inner_padding = self.left_padding if padding == "constant" else 0
        conv = _Conv1d(in_channels, out_channels, kernel_size, stride, self.inner_padding, dilation)
        self.conv = weight_norm(conv) if norm == "weight_norm" else conv
        self.norm = nn.GroupNorm(1, out_channels) if norm == "time_group_norm" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # The last window may be incomplete. It is filled up, or its samples would be lost.
        missing = -x.shape[-1] % self.stride
        left, right = (side - self.inner_padding for side in (self.left_padding, self.right_padding + missing))
        y: Tensor = self.conv(pad(x, left, max(0, right), self.padding))
        frames = (x.shape[-1] + missing) // self.stride
        normed: Tensor = self.norm(channels_last.trim(y, 0, y.shape[-1] - frames) if y.shape[-1] > frames else y)
        return normed

    def stream(self) -> "_ConvStream":
        """A new stream through this layer."""
        return _ConvStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        return outputs * self.stride + self.overlap


class ConvTranspose1d(nn.Module):
    """Transposed convolution whose output has exactly F * stride samples.

    The last window reaches kernel - stride samples past the end. They are trimmed: all on the right when causal, else
    on both sides.

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

    def stream(self) -> "_ConvTransposeStream":
        """A new stream through this layer."""
        return _ConvTransposeStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        # Output m is the sum of the windows that begin at m or up to kernel - 1 before.
        return math.ceil(outputs / self.stride) + math.ceil(self.overhang / self.stride)


class _Conv1d(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding[0]
        assert isinstance(padding, int)
        return channels_last.conv1d(input, self.weight, self.bias, self.stride[0], self.dilation[0], padding)


class _ConvTranspose1d(nn.ConvTranspose1d):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return channels_last.conv_transpose1d(input, self.weight, self.bias, self.stride[0])


class _ConvStream:
    """Holds the input from the start of the next window on.

    That is `overlap` padded samples and less than a stride more. At the end of the input the last window is filled up
    as in `Conv1d.forward`. A reflection there needs fewer samples than a stride, and no window of the network is
    shorter than two strides, so they are still held.
    """

    def __init__(self, layer: Conv1d) -> None:
        self.layer = layer
        conv = layer.conv
        # Read once: under weight norm every access computes it.
        self.weight, self.bias = conv.weight.detach(), conv.bias
        self.dilation = conv.dilation[0]
        self.window = layer.overlap + layer.stride
        self.held: Tensor | None = None
        self.padded = False

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self.layer
        held = join(self.held, x)
        left = 0 if self.padded else layer.left_padding
        samples = held.shape[-1] - (layer.left_padding - left)  # modulo the stride, the samples of all pushes
        too_short = layer.padding == "reflect" and samples <= left
        if not self.padded and (samples == 0 or (too_short and not last)):
            self.held = held
            return self._empty(x)
        right = -samples % layer.stride if last else 0
        if left or right:
            held = pad(held, left, right, layer.padding)
        self.padded = True
        frames = max(0, (held.shape[-1] - layer.overlap) // layer.stride)
        self.held = rest(held, frames * layer.stride)
        if frames == 0:
            return self._empty(x)
        ready = held[..., : (frames - 1) * layer.stride + self.window]
        if not _is_few(ready, frames * len(ready)):
            return channels_last.conv1d(ready, self.weight, self.bias, layer.stride, self.dilation)
        windows = ready.unfold(-1, self.window, layer.stride)[..., :: self.dilation].transpose(1, 2)
        return F.linear(windows.flatten(2), self.weight.flatten(1), self.bias).transpose(1, 2)

    def _empty(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], len(self.weight), 0)


class _ConvTransposeStream:
    """Holds the overhang of the last window, to which the next window is added. At the end it is what is trimmed."""

    def __init__(self, layer: ConvTranspose1d) -> None:
        self.layer = layer
        self.weight: Tensor = layer.conv.weight.detach()
        self.bias = cast(Tensor, layer.conv.bias)
        self.overhang: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], len(self.bias), 0)
        y = self._windows(x)
        if self.overhang is not None:
            y[..., : self.layer.overhang] += self.overhang
        ready = x.shape[-1] * self.layer.stride
        self.overhang = y[..., ready:].clone()
        return y[..., :ready] + self.bias[:, None]  # once, after the windows are summed

    def _windows(self, x: Tensor) -> Tensor:
        """Shape: x [B, C, F] -> [B, C', (F - 1) * stride + kernel_size]."""
        stride, kernel = self.layer.stride, self.weight.shape[2]
        if not _is_few(x, x.shape[0] * x.shape[2]):
            return channels_last.conv_transpose1d(x, self.weight, None, stride)
        windows = (x.transpose(1, 2) @ self.weight.flatten(1)).transpose(1, 2)
        length = (x.shape[2] - 1) * stride + kernel
        return F.fold(windows, (1, length), (1, kernel), stride=(1, stride)).squeeze(2)


def _is_few(x: Tensor, frames: int) -> bool:
    return x.device.type == "cpu" and frames <= _FEW_FRAMES


def pad(x: Tensor, left: int, right: int, mode: Padding) -> Tensor:
    """Pads the last axis. `reflect` also works on inputs shorter than the padding.

    A reflection needs more samples than it adds. Shorter inputs are first filled with zeros on the right, and what the
    fill displaced is cut again, as in encodec.

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
    """Replaces every weight-norm parametrization below `module` by the weight that it computes, in place.

    The outputs stay the same, and each forward pass saves the computation. The module can no longer be trained in the
    same parametrization.
    """
    for layer in module.modules():
        if torch.nn.utils.parametrize.is_parametrized(layer, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")


def weight_gain(layer: Conv1d | ConvTranspose1d) -> nn.Parameter:
    """The parameter that scales the weight of a convolution: the gain of its weight norm, or the weight itself."""
    normed = torch.nn.utils.parametrize.is_parametrized(layer.conv, "weight")
    return layer.conv.get_parameter("parametrizations.weight.original0" if normed else "weight")
