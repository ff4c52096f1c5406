"""An encoder and a decoder at the frame rate: STFT, ConvNeXt blocks, inverse STFT (after Vocos, Siuzdak 2023).

SEANet computes most of its layers at a high rate. Here every layer but the Fourier transforms works on frames, so wide
layers are cheap. A new encoder is an MDCT and a new decoder its inverse, with blocks that add nothing yet: so a codec
whose codebooks are initialized codes speech before it is trained.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from codec.network.frame_layers import ConvNeXtBlock, FrameInput
from codec.network.inverse_mdct import begin_as_inverse_mdct
from codec.network.istft_layers import ISTFTOutput, LatentOutput, SpectralInput, overhang
from codec.ranges import Channels, Depth, OptionalSize, Size, check_ranges

__all__ = ["ISTFTDecoder", "ISTFTEncoder", "ISTFTNetwork"]

_WEIGHT_STD = 0.02  # of initial weights, as in ConvNeXt and Vocos


@dataclass(frozen=True, kw_only=True)
class ISTFTNetwork:
    """Settings of an encoder and a decoder at the frame rate.

    Args:
        channels: Audio channels, 1 or 2.
        hop_samples: Audio samples per frame, an even number.
        latent_dim: Width D of the latent that is quantized.
        encoder_window_samples: Window of the encoder's spectrum, an even number and at least two hops.
        encoder_width: Channels of the encoder, more than `latent_dim`.
        encoder_depth: Blocks of the encoder.
        encoder_look_ahead: Later frames on which a frame of the encoder's blocks depends, over all blocks. The first
            blocks have them: half a kernel each, as far as they go.
        decoder_window_samples: Window of the decoder's inverse STFT, as for the encoder.
        decoder_width: Channels of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_look_ahead: As for the encoder; the first convolution counts as the first block.
        decoder_noise_channels: Channels of noise beside the latent, from which a decoder can make noise that the latent
            does not determine. It needs a loss that rewards this, such as `losses.EnergyDistance`. 0: none.
        expansion: Hidden channels of a block's perceptron, as a multiple of its width.
        kernel_size: Kernel of the convolutions, in frames.

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    channels: Channels = 1
    hop_samples: Size = 320
    latent_dim: Size = 96
    encoder_window_samples: Size = 1280
    encoder_width: Size = 192
    encoder_depth: Depth = 4
    encoder_look_ahead: OptionalSize = 0
    decoder_window_samples: Size = 1280
    decoder_width: Size = 256
    decoder_depth: Depth = 6
    decoder_look_ahead: OptionalSize = 3
    decoder_noise_channels: OptionalSize = 0
    expansion: Size = 3
    kernel_size: Size = 7

    def __post_init__(self) -> None:
        check_ranges(ISTFTNetwork, vars(self))
        if self.hop_samples % 2:
            raise ValueError(f"hop_samples must be even, got {self.hop_samples}")
        if self.encoder_width <= self.latent_dim:
            raise ValueError(f"encoder_width must be above latent_dim, {self.latent_dim}, got {self.encoder_width}")
        for name in ("encoder_window_samples", "decoder_window_samples"):
            value = getattr(self, name)
            if value % 2 or value < 2 * self.hop_samples:
                least = 2 * self.hop_samples
                raise ValueError(f"{name} must be an even number of at least two hops, {least}, got {value!r}")
        for name, convolutions in (("encoder", self.encoder_depth), ("decoder", self.decoder_depth + 1)):
            most = convolutions * (self.kernel_size // 2)
            if getattr(self, f"{name}_look_ahead") > most:
                raise ValueError(
                    f"{name}_look_ahead must be at most {most} frames with {convolutions} convolutions of kernel "
                    f"{self.kernel_size}, got {getattr(self, f'{name}_look_ahead')}"
                )

    @property
    def causal(self) -> bool:
        """True: the network streams."""
        return True

    @property
    def look_ahead_samples(self) -> int:
        """Samples after the end of a frame on which the decoded audio of the frame depends.

        A live stream is late by this and by the length of a frame.
        """
        added = math.ceil(overhang(self.decoder_window_samples, self.hop_samples) / self.hop_samples)
        frames = added + self.decoder_look_ahead + self.encoder_look_ahead
        return frames * self.hop_samples + overhang(self.encoder_window_samples, self.hop_samples)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make an equal network: numbers, strings and lists of them."""
        settings = asdict(self)
        if not self.decoder_noise_channels:  # model files of before this setting keep their fingerprints
            del settings["decoder_noise_channels"]
        return settings

    def make_encoder(self) -> "ISTFTEncoder":
        """A new encoder: an MDCT, and blocks with random weights that add nothing at first."""
        return ISTFTEncoder(self)

    def make_decoder(self) -> "ISTFTDecoder":
        """A new decoder: the inverse of the new encoder, and blocks with random weights that add nothing at first."""
        return ISTFTDecoder(self)


class ISTFTEncoder(nn.Module):
    """Waveform to latent.

    Shape: audio [B, C, T] -> latent [B, D, F] with F = ceil(T / hop).
    """

    def __init__(self, net: ISTFTNetwork) -> None:
        super().__init__()
        width = net.encoder_width
        ahead = _distribute(net.encoder_look_ahead, net.encoder_depth, net.kernel_size // 2)
        self.layers = nn.Sequential(
            SpectralInput(net.channels, net.latent_dim, width, net.encoder_window_samples, net.hop_samples),
            *(_block(net, width, frames, net.encoder_depth) for frames in ahead),
            LatentOutput(width, net.latent_dim),
        )
        self.apply(_initialize)

    @property
    def input_layer(self) -> nn.Module:
        """The first layer, which reads the waveform."""
        return self.layers[0]

    def forward(self, audio: Tensor) -> Tensor:
        latent: Tensor = self.layers(audio)
        return latent


class ISTFTDecoder(nn.Module):
    """Latent to waveform.

    Attributes:
        is_stochastic: Whether it draws noise, see `codec.network.Network`.

    Shape: latent [B, D, F] -> audio [B, C, F * hop].
    """

    def __init__(self, net: ISTFTNetwork) -> None:
        super().__init__()
        self.is_stochastic = net.decoder_noise_channels > 0
        width = net.decoder_width
        first, *ahead = _distribute(net.decoder_look_ahead, net.decoder_depth + 1, net.kernel_size // 2)
        self.layers = nn.Sequential(
            FrameInput(
                net.latent_dim,
                width,
                net.kernel_size,
                look_ahead=first,
                noise_channels=net.decoder_noise_channels,
            ),
            *(_block(net, width, frames, net.decoder_depth) for frames in ahead),
            ISTFTOutput(net.channels, width, net.decoder_window_samples, net.hop_samples),
        )
        self.apply(_initialize)
        begin_as_inverse_mdct(self.layers)

    @property
    def output_layer(self) -> nn.Linear:
        """The linear layer that writes magnitudes and phases."""
        layer = self.layers[-1]
        assert isinstance(layer, ISTFTOutput)
        return layer.linear

    def forward(self, latent: Tensor) -> Tensor:
        audio: Tensor = self.layers(latent)
        return audio


def _block(net: ISTFTNetwork, width: int, look_ahead: int, depth: int) -> ConvNeXtBlock:
    return ConvNeXtBlock(width, net.expansion * width, net.kernel_size, look_ahead=look_ahead, gain=1 / depth)


def _distribute(total: int, count: int, most: int) -> list[int]:
    """`total` frames over `count` layers, the first of which get `most` each."""
    return [min(most, max(0, total - i * most)) for i in range(count)]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_WEIGHT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, SpectralInput | LatentOutput | ConvNeXtBlock):  # after the layers that they contain
        module.initialize()
