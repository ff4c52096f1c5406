"""SEANet encoder and decoder (Tagliasacchi et al. 2020) as EnCodec uses them (Défossez et al. 2022, section 3.1).

`layers` of `Encoder` and `Decoder` are numbered as in the encodec package, so that foreign checkpoints map
by name alone.
"""

from torch import Tensor, nn

from codec.config import CodecConfig
from codec.network.activations import CELU
from codec.network.conv import Conv1d, ConvTranspose1d

__all__ = ["Decoder", "Encoder", "Layers", "ResidualLSTM", "ResidualUnit"]


class Layers(nn.Sequential):
    """One after the other; a convolution does the activation before it itself.

    Shape: that of the first -> that of the last.
    """

    def forward(self, input: Tensor) -> Tensor:
        activation: CELU | None = None
        for layer in self:
            if isinstance(layer, Conv1d):
                input, activation = layer(input, activation), None
                continue
            if activation is not None:
                input, activation = activation(input), None
            if isinstance(layer, CELU):
                activation = layer
            else:
                input = layer(input)
        return input if activation is None else activation(input)


class Encoder(nn.Module):
    """Waveform to latent.

    Shape: audio [B, C, T] -> latent [B, D, F] with F = ceil(T / hop).
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        width = config.filters
        layers: list[nn.Module] = [_conv(config, config.channels, width, config.kernel_size)]
        for stride in config.strides:
            layers += [ResidualUnit(config, width, layer) for layer in range(config.residual_layers)]
            layers += [CELU(config.celu_alpha), _conv(config, width, 2 * width, 2 * stride, stride=stride)]
            width *= 2
        if config.lstm_layers:
            layers.append(ResidualLSTM(width, config.lstm_layers))
        layers += [CELU(config.celu_alpha), _conv(config, width, config.latent_dim, config.kernel_size)]
        self.layers = Layers(*layers)

    def forward(self, audio: Tensor) -> Tensor:
        latent: Tensor = self.layers(audio)
        return latent


class Decoder(nn.Module):
    """Latent to waveform: the encoder mirrored, with transposed convolutions for the strides.

    Shape: latent [B, D, F] -> audio [B, C, F * hop].
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        width = config.filters * 2 ** len(config.strides)
        layers: list[nn.Module] = [_conv(config, config.latent_dim, width, config.kernel_size)]
        if config.lstm_layers:
            layers.append(ResidualLSTM(width, config.lstm_layers))
        for stride in reversed(config.strides):
            layers += [
                CELU(config.celu_alpha),
                ConvTranspose1d(width, width // 2, 2 * stride, stride=stride, causal=config.causal, norm=config.norm),
            ]
            width //= 2
            layers += [ResidualUnit(config, width, layer) for layer in range(config.residual_layers)]
        layers += [CELU(config.celu_alpha), _conv(config, width, config.channels, config.kernel_size)]
        self.layers = Layers(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        audio: Tensor = self.layers(latent)
        return audio


class ResidualUnit(nn.Module):
    """A dilated convolution and a 1x1 convolution beside a skip connection.

    Shape: [B, width, T] -> [B, width, T].
    """

    def __init__(self, config: CodecConfig, width: int, layer: int) -> None:
        super().__init__()
        hidden = width // config.compress
        dilation = config.dilation_base**layer
        self.block = Layers(
            CELU(config.celu_alpha),
            _conv(config, width, hidden, config.residual_kernel_size, dilation=dilation),
            CELU(config.celu_alpha),
            _conv(config, hidden, width, 1),
        )
        self.shortcut = _conv(config, width, width, 1) if config.skip == "conv" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.block(x)
        return y


class ResidualLSTM(nn.Module):
    """LSTM over frames with a skip connection.

    Shape: [B, width, F] -> [B, width, F].
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.permute(2, 0, 1)  # torch's time-first layout is the faster one on CPU
        y, _ = self.lstm(frames)
        return (y + frames).permute(1, 2, 0)


def _conv(
    config: CodecConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Conv1d:
    return Conv1d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        dilation=dilation,
        causal=config.causal,
        norm=config.norm,
        padding=config.padding,
    )
