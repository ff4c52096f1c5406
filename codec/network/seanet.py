"""SEANet encoder and decoder (Tagliasacchi et al. 2020) as in EnCodec (Défossez et al. 2022, section 3.1).

The layers of `Encoder` and `Decoder` are numbered as in the encodec package, so that its checkpoints map by name.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from codec.network.activations import Activation, make_activation
from codec.network.conv import Conv1d, ConvTranspose1d, Norm, Padding
from codec.network.stream import Chain, join, rest, stream_of
from codec.ranges import Channels, Depth, Size, Stride, check_ranges

__all__ = ["Decoder", "Encoder", "ResidualLSTM", "ResidualUnit", "SEANet"]

Skip = Literal["conv", "identity"]

# On a CPU the library's LSTM rearranges its weights at every call. Up to this number of frames, a matrix product for
# each is faster.
_FEW_FRAMES = 12
_MAX_DILATION = 1 << 17


@dataclass(frozen=True, kw_only=True)
class SEANet:
    """Settings of a SEANet: convolutions with strides, residual units and an LSTM.

    Args:
        channels: Audio channels, 1 or 2.
        filters: Channels after the first convolution (`C` in the paper). Every stride doubles them.
        strides: Strides of the encoder in its own order, from the waveform down. The decoder mirrors them.
        latent_dim: Width D of the latent that is quantized.
        kernel_size: Kernel of the first and last convolutions of encoder and decoder.
        residual_kernel_size: Kernel of the dilated convolution in a residual unit.
        residual_layers: Residual units before each stride, with dilations `dilation_base ** layer`.
        dilation_base: See `residual_layers`.
        compress: A residual unit works on `width / compress` channels.
        activation: `elu` (all published EnCodec models), `relu`, or `snake` (DAC).
        lstm_layers: LSTM layers between convolutions and latent; 0 for none.
        causal: Left padding only, so that a frame needs no future sample.
        norm: `weight_norm` (24 kHz model), `time_group_norm` (a group norm with one group, over channels and time: the
            non-causal 48 kHz model), or `none`.
        padding: `reflect` (encodec) or `constant`, that is zeros (audiocraft).
        skip: `conv` (a 1x1 convolution, encodec) or `identity` (audiocraft).

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    channels: Channels = 1
    filters: Size = 32
    strides: Annotated[Sequence[Stride], MinLen(1)] = (2, 4, 5, 8)
    latent_dim: Size = 128
    kernel_size: Size = 7
    residual_kernel_size: Size = 3
    residual_layers: Annotated[Depth, Ge(1)] = 1
    dilation_base: Size = 2
    compress: Size = 2
    activation: Activation = "elu"
    lstm_layers: Depth = 2
    causal: bool = True
    norm: Norm = "weight_norm"
    padding: Padding = "reflect"
    skip: Skip = "conv"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))
        check_ranges(SEANet, vars(self))
        if self.dilation_base ** (self.residual_layers - 1) > _MAX_DILATION:
            raise ValueError(
                f"the largest dilation, dilation_base ** (residual_layers - 1), must be at most {_MAX_DILATION}, got "
                f"{self.dilation_base} ** {self.residual_layers - 1}"
            )
        if self.compress > self.filters:
            raise ValueError(f"compress must be at most filters ({self.filters}), got {self.compress}")
        if self.causal and self.norm == "time_group_norm":
            raise ValueError("time_group_norm averages over all of time, so it needs causal=false")

    @property
    def hop_samples(self) -> int:
        """Audio samples per latent frame."""
        return math.prod(self.strides)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make an equal network: numbers, strings and lists of them."""
        return asdict(self) | {"strides": list(self.strides)}

    def make_encoder(self) -> "Encoder":
        """A new encoder with random weights."""
        return Encoder(self)

    def make_decoder(self) -> "Decoder":
        """A new decoder with random weights."""
        return Decoder(self)


class Encoder(nn.Module):
    """Waveform to latent.

    Shape: audio [B, C, T] -> latent [B, D, F] with F = ceil(T / hop).

    Attributes:
        mixes_lengths: See `Network`. A group norm is an average over the signal.
    """

    def __init__(self, net: SEANet) -> None:
        super().__init__()
        self.mixes_lengths = net.norm != "time_group_norm"
        width = net.filters
        layers: list[nn.Module] = [_conv(net, net.channels, width, net.kernel_size)]
        for stride in net.strides:
            layers += [ResidualUnit(net, width, net.dilation_base**i) for i in range(net.residual_layers)]
            layers += [make_activation(net.activation, width), _conv(net, width, 2 * width, 2 * stride, stride=stride)]
            width *= 2
        if net.lstm_layers:
            layers.append(ResidualLSTM(width, net.lstm_layers))
        layers += [make_activation(net.activation, width), _conv(net, width, net.latent_dim, net.kernel_size)]
        self.layers = nn.Sequential(*layers)

    @property
    def input_layer(self) -> nn.Module:
        """The first layer, which reads the waveform."""
        return self.layers[0]

    def forward(self, audio: Tensor) -> Tensor:
        latent: Tensor = self.layers(audio)
        return latent


class Decoder(nn.Module):
    """Latent to waveform: the encoder mirrored, with transposed convolutions for the strides.

    Shape: latent [B, D, F] -> audio [B, C, F * hop].
    """

    def __init__(self, net: SEANet) -> None:
        super().__init__()
        width = net.filters * 2 ** len(net.strides)
        layers: list[nn.Module] = [_conv(net, net.latent_dim, width, net.kernel_size)]
        if net.lstm_layers:
            layers.append(ResidualLSTM(width, net.lstm_layers))
        for stride in reversed(net.strides):
            layers += [
                make_activation(net.activation, width),
                ConvTranspose1d(width, width // 2, 2 * stride, stride=stride, causal=net.causal, norm=net.norm),
            ]
            width //= 2
            layers += [ResidualUnit(net, width, net.dilation_base**i) for i in range(net.residual_layers)]
        output = _conv(net, width, net.channels, net.kernel_size)
        self.layers = nn.Sequential(*layers, make_activation(net.activation, width), output)

    @property
    def output_layer(self) -> nn.Conv1d:
        """The convolution that writes the waveform."""
        layer = self.layers[-1]
        assert isinstance(layer, Conv1d)
        assert isinstance(layer.conv, nn.Conv1d)
        return layer.conv

    def forward(self, latent: Tensor) -> Tensor:
        audio: Tensor = self.layers(latent)
        return audio


class ResidualUnit(nn.Module):
    """A dilated convolution and a 1x1 convolution beside a skip connection.

    Shape: [B, width, T] -> [B, width, T].
    """

    def __init__(self, net: SEANet, width: int, dilation: int) -> None:
        super().__init__()
        hidden = width // net.compress
        self.block = nn.Sequential(
            make_activation(net.activation, width),
            _conv(net, width, hidden, net.residual_kernel_size, dilation=dilation),
            make_activation(net.activation, hidden),
            _conv(net, hidden, width, 1),
        )
        self.shortcut = _conv(net, width, width, 1) if net.skip == "conv" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.block(x)
        return y

    def stream(self) -> "_ResidualStream":
        """A new stream through this layer."""
        return _ResidualStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        past = outputs
        for layer in reversed(self.block):
            past = layer.past_inputs(past) if isinstance(layer, Conv1d) else past
        return past  # the skip connection reaches no further back


class ResidualLSTM(nn.Module):
    """LSTM over frames with a skip connection.

    Shape: [B, width, F] -> [B, width, F].
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.permute(2, 0, 1)  # torch's time-first layout is the faster one on a CPU
        y, _ = self.lstm(frames)
        return (y + frames).permute(1, 2, 0)

    def stream(self) -> "_LSTMStream":
        """A new stream through this layer."""
        return _LSTMStream(self)

    def past_inputs(self, outputs: float) -> float:
        """Infinity: the state depends on every earlier frame."""
        return math.inf


class _ResidualStream:
    """Delays the skip connection as long as the convolutions beside it wait for their padding."""

    def __init__(self, layer: ResidualUnit) -> None:
        self.block = Chain(layer.block)
        self.shortcut = stream_of(layer.shortcut)
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        y = self.block.push(x, last)
        skip = join(self.held, self.shortcut.push(x, last))
        ready = y.shape[-1]
        self.held = rest(skip, ready)
        return y + skip[..., :ready]


class _LSTMStream:
    """Holds the hidden and the cell state, [layers, B, width] each."""

    def __init__(self, layer: ResidualLSTM) -> None:
        self.lstm = layer.lstm
        self.state: tuple[Tensor, Tensor] | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        if x.shape[-1] == 0:
            return x
        frames = x.permute(2, 0, 1)
        if self.state is None:
            hidden, cell = x.new_zeros(2, self.lstm.num_layers, x.shape[0], self.lstm.hidden_size)
            self.state = hidden, cell
        if x.device.type == "cpu" and len(frames) <= _FEW_FRAMES:
            y, self.state = _step_by_step(self.lstm, frames, *self.state)
        else:
            y, self.state = self.lstm(frames, self.state)
        return (y + frames).permute(1, 2, 0)


def _step_by_step(lstm: nn.LSTM, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What `lstm` returns, one frame after the other.

    Shape: x [F, B, width], states [layers, B, width] -> [F, B, width], two states.
    """
    ends = []
    for h, c, (input_weight, hidden_weight, bias, more_bias) in zip(hidden, cell, lstm.all_weights, strict=True):
        outputs = []
        for gates in nn.functional.linear(x, input_weight, bias + more_bias):
            i, f, g, o = (gates + nn.functional.linear(h, hidden_weight)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        x = torch.stack(outputs)
        ends.append((h, c))
    hidden, cell = (torch.stack(states) for states in zip(*ends, strict=True))
    return x, (hidden, cell)


def _conv(
    net: SEANet, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Conv1d:
    return Conv1d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        dilation=dilation,
        causal=net.causal,
        norm=net.norm,
        padding=net.padding,
    )
