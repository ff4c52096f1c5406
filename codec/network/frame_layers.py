"""Layers over frames, and their streams: convolution, the decoder's input, ConvNeXt block.

They pad with zeros and may look ahead: a frame then depends on a fixed number of later frames. A stream returns such a
frame as soon as the last of them is pushed, and treats the end of the input as the padding does. So it returns what the
layer returns for the whole signal.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.network.frame_noise import frame_noise
from codec.network.stream import join, rest

__all__ = ["ConvNeXtBlock", "FrameConv", "FrameInput"]

COMPRESSION = 0.3  # exponent of the length of a latent in the decoder's features
LEAST_POWER = 1e-4  # added to the squared length of a latent


class FrameConv(nn.Module):
    """Convolution over frames with zero padding.

    Args:
        in_channels, out_channels, kernel_size, groups: As in `torch.nn.Conv1d`.
        look_ahead: Number of later frames in the kernel.

    Shape: [B, C, F] -> [B, C', F].
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, look_ahead: int, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups)
        self.left_padding, self.right_padding = kernel_size - 1 - look_ahead, look_ahead

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (self.left_padding, self.right_padding)))
        return y

    def stream(self) -> "_FrameConvStream":
        """A new stream through this layer."""
        return _FrameConvStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        return outputs + self.left_padding


class _FrameConvStream:
    """Holds the frames from the start of the next kernel on, at first the padding."""

    def __init__(self, layer: FrameConv) -> None:
        self.layer = layer
        self.held: Tensor | None = None
        self.started = False

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self.layer
        left = 0 if self.started or x.shape[-1] == 0 else layer.left_padding
        self.started = self.started or x.shape[-1] > 0
        held = join(self.held, F.pad(x, (left, layer.right_padding if last and self.started else 0)))
        frames = max(0, held.shape[-1] - layer.left_padding - layer.right_padding)
        self.held = rest(held, frames)
        if frames == 0:
            return x.new_zeros(x.shape[0], layer.conv.out_channels, 0)
        y: Tensor = layer.conv(held)
        return y


class FrameInput(nn.Module):
    """First layer of the decoder: a convolution over frames of z / |z|^0.7 and log |z|, for a latent z.

    Later layers normalize their inputs, so the level of a frame must be a feature of its own.

    Noise, if there is any, depends on the number of the frame. In training every signal of a batch begins at a random
    number, drawn from torch's generator of the CPU.

    Args:
        latent_dim, width, kernel_size, look_ahead: As in `FrameConv`.
        noise_channels: Channels of noise beside the features, see `frame_noise`.

    Shape: latent [B, D, F] -> [B, width, F].
    """

    def __init__(
        self, latent_dim: int, width: int, kernel_size: int, *, look_ahead: int, noise_channels: int = 0
    ) -> None:
        super().__init__()
        self.latent_dim, self.noise_channels = latent_dim, noise_channels
        self.conv = FrameConv(latent_dim + 1 + noise_channels, width, kernel_size, look_ahead=look_ahead)

    def forward(self, latent: Tensor) -> Tensor:
        start = torch.zeros(len(latent), dtype=torch.int64)
        if self.training and self.noise_channels:
            start.random_(1 << 32)
        y: Tensor = self.conv(self.features(latent, start))
        return y

    def features(self, latent: Tensor, start: Tensor) -> Tensor:
        """What is convolved.

        Args:
            start: Number of the first frame of each signal, on the host.

        Shape: latent [B, D, F], start [B] int64 -> [B, D + 1 + noise_channels, F].
        """
        z = latent.to(torch.promote_types(latent.dtype, torch.float32))
        power = z.square().sum(1, keepdim=True) + LEAST_POWER
        features = [z * power.pow((COMPRESSION - 1) / 2), 0.5 * power.log()]
        if self.noise_channels:
            start = start.to(z.device, non_blocking=True)
            features.append(frame_noise(start, z.shape[-1], self.noise_channels).to(z.dtype))
        return torch.cat(features, 1)

    def stream(self) -> "_FrameInputStream":
        """A new stream through this layer."""
        return _FrameInputStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer; infinite with noise, which counts all frames."""
        return math.inf if self.noise_channels else self.conv.past_inputs(outputs)


class _FrameInputStream:
    def __init__(self, layer: FrameInput) -> None:
        self.layer = layer
        self.conv = layer.conv.stream()
        self.frames = 0  # before the next push

    def push(self, x: Tensor, last: bool) -> Tensor:
        features = self.layer.features(x, torch.full((len(x),), self.frames))
        self.frames += x.shape[-1]
        return self.conv.push(features, last)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over frames and a perceptron in every frame, beside a skip connection (Liu et al. 2022).

    Args:
        width: Channels.
        hidden: Channels of the perceptron's hidden layer.
        kernel_size, look_ahead: Of the convolution, see `FrameConv`.
        gain: Initial factor of every channel before it is added to the input.

    Shape: [B, width, F] -> [B, width, F].
    """

    def __init__(self, width: int, hidden: int, kernel_size: int, *, look_ahead: int, gain: float) -> None:
        super().__init__()
        self.depthwise = FrameConv(width, width, kernel_size, look_ahead=look_ahead, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gain = nn.Parameter(torch.full((width,), gain))

    def initialize(self) -> None:
        """Sets what is added to the input to zero."""
        nn.init.zeros_(self.contract.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(self.depthwise(x))

    def residual(self, x: Tensor) -> Tensor:
        """What is added to the input, from the output of the convolution. Shape: [B, width, F] -> [B, width, F]."""
        hidden = F.gelu(self.expand(self.norm(x.transpose(1, 2))))
        y: Tensor = self.contract(hidden) * self.gain
        return y.transpose(1, 2)

    def stream(self) -> "_ConvNeXtStream":
        """A new stream through this layer."""
        return _ConvNeXtStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        return self.depthwise.past_inputs(outputs)


class _ConvNeXtStream:
    """Delays the skip connection as long as the convolution waits for later frames."""

    def __init__(self, layer: ConvNeXtBlock) -> None:
        self.layer = layer
        self.depthwise = layer.depthwise.stream()
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        y = self.depthwise.push(x, last)
        skip = join(self.held, x)
        ready = y.shape[-1]
        self.held = rest(skip, ready)
        return skip[..., :ready] + self.layer.residual(y)
