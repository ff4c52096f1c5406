"""Encoder and decoder of DAC (Kumar et al. 2023, section 3.1): strided convolutions, residual units, snake activations.

Every layer is padded with zeros on both sides, so a frame depends on later samples and the network does not stream.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from annotated_types import Ge, MinLen
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from codec.network.activations import Snake
from codec.ranges import Channels, Size, Stride, check_ranges

__all__ = ["DACDecoder", "DACEncoder", "DACNetwork", "DACResidualUnit", "WholeFrames"]

_DILATIONS = (1, 3, 9)  # of the residual units before a stride


@dataclass(frozen=True, kw_only=True)
class DACNetwork:
    """Settings of DAC's encoder and decoder.

    Args:
        channels: Audio channels, 1 or 2.
        encoder_filters: Channels after the encoder's first convolution. Every stride doubles them.
        decoder_filters: Channels after the decoder's first convolution. Every stride halves them.
        strides: Strides of the encoder in its own order, from the waveform down. The decoder mirrors them.
        latent_dim: Width D of the latent; in DAC `encoder_filters` times 2 for each stride.

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    channels: Channels = 1
    encoder_filters: Size = 64
    decoder_filters: Size = 1536
    strides: Annotated[Sequence[Annotated[Stride, Ge(2)]], MinLen(1)] = (2, 4, 5, 8)
    latent_dim: Size = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))
        check_ranges(DACNetwork, vars(self))
        if self.decoder_filters % 2 ** len(self.strides):
            raise ValueError(
                f"decoder_filters must be a multiple of {2 ** len(self.strides)}, which the strides divide it by, "
                f"got {self.decoder_filters}"
            )

    @property
    def hop_samples(self) -> int:
        """Audio samples per latent frame."""
        return math.prod(self.strides)

    @property
    def causal(self) -> bool:
        """False: the network does not stream."""
        return False

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make an equal network."""
        return asdict(self) | {"strides": list(self.strides)}

    def make_encoder(self) -> "DACEncoder":
        """A new encoder with random weights."""
        return DACEncoder(self)

    def make_decoder(self) -> "DACDecoder":
        """A new decoder with random weights."""
        return DACDecoder(self)


class DACEncoder(nn.Module):
    """Waveform to latent. A last frame that is not complete is padded with zeros.

    Shape: audio [B, C, T] -> latent [B, D, F] with F = ceil(T / hop).
    """

    def __init__(self, net: DACNetwork) -> None:
        super().__init__()
        width = net.encoder_filters
        layers: list[nn.Module] = [WholeFrames(net.hop_samples), _conv(net.channels, width, 7)]
        for stride in net.strides:
            layers += [DACResidualUnit(width, dilation) for dilation in _DILATIONS]
            layers += [Snake(width), _conv(width, 2 * width, 2 * stride, stride=stride)]
            width *= 2
        self.layers = nn.Sequential(*layers, Snake(width), _conv(width, net.latent_dim, 3))

    @property
    def input_layer(self) -> nn.Module:
        """The convolution that reads the waveform."""
        return self.layers[1]

    def forward(self, audio: Tensor) -> Tensor:
        latent: Tensor = self.layers(audio)
        return latent


class DACDecoder(nn.Module):
    """Latent to waveform: the encoder mirrored, with a tanh at the end.

    Shape: latent [B, D, F] -> audio [B, C, F * hop] in (-1, 1).
    """

    def __init__(self, net: DACNetwork) -> None:
        super().__init__()
        width = net.decoder_filters
        layers: list[nn.Module] = [_conv(net.latent_dim, width, 7)]
        for stride in reversed(net.strides):
            # DAC has no `output_padding`. An odd stride then loses a sample, and the audio is shorter than its frames.
            up = nn.ConvTranspose1d(width, width // 2, 2 * stride, stride, math.ceil(stride / 2), stride % 2)
            layers += [Snake(width), weight_norm(up)]
            width //= 2
            layers += [DACResidualUnit(width, dilation) for dilation in _DILATIONS]
        self.layers = nn.Sequential(*layers, Snake(width), _conv(width, net.channels, 7), nn.Tanh())

    @property
    def output_layer(self) -> nn.Conv1d:
        """The convolution that writes the waveform."""
        layer = self.layers[-2]
        assert isinstance(layer, nn.Conv1d)
        return layer

    def forward(self, latent: Tensor) -> Tensor:
        audio: Tensor = self.layers(latent)
        return audio


class WholeFrames(nn.Module):
    """Zeros at the end, up to a whole number of frames. Shape: [B, C, T] -> [B, C, ceil(T / hop) * hop]."""

    def __init__(self, hop_samples: int) -> None:
        super().__init__()
        self.hop_samples = hop_samples

    def forward(self, audio: Tensor) -> Tensor:
        return F.pad(audio, (0, -audio.shape[-1] % self.hop_samples))


class DACResidualUnit(nn.Sequential):
    """A dilated convolution and a 1x1 convolution beside the input.

    Shape: [B, width, T] -> [B, width, T].
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__(Snake(width), _conv(width, width, 7, dilation=dilation), Snake(width), _conv(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    padding = math.ceil(stride / 2) if stride > 1 else dilation * (kernel_size - 1) // 2
    conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding, dilation)
    # DAC's code also draws weights with a standard deviation of 0.02, but writes them to tensors that weight
    # normalization computes anew. So DAC is trained from torch's initial weights.
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return weight_norm(conv)
