"""PCA initialization: weights with which an untrained SEANet reconstructs waveforms, found layer by layer.

A SEANet with random weights spends its first thousands of steps on learning a transform of frames and its inverse. Here
every strided convolution computes the principal components of its blocks, and the transposed convolution across from
it computes the inverse. Residual units add nothing at first. k-means on these latents is then a vector quantizer of
principal components, and training starts from waveforms with the right phase.

Two channels hold each signal s, which keeps the network nearly linear. With ReLU activations they hold the half-waves,
at any level:
    ReLU(s) - ReLU(-s) = s.
The ELU needs a constant c in both channels:
    ELU(c + s) - ELU(c - s) = 2 s    for |s| <= c.
Training must keep this constant cancelled, and it makes silence louder.
A SEANet encoder may have another decoder. Then the encoder alone is set, and the decoder keeps its random weights.
Channels and taps without a signal keep their random weights. Weights from them to a signal are zero and get a gradient
from the first step.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec.config import part_settings
from codec.model import Codec
from codec.network.conv import Conv1d, ConvTranspose1d, weight_gain
from codec.network.seanet import ResidualLSTM, ResidualUnit

__all__ = ["pca_init_"]


class _Pairs(NamedTuple):
    """How two channels hold a signal."""

    offset: float  # c, in standard deviations of s
    factor: float  # factor of the difference of the channels that gives s


_RELU_PAIRS, _ELU_PAIRS = _Pairs(0.0, 1.0), _Pairs(4.0, 0.5)

_DIRECTION = "parametrizations.weight.original1"  # of weight norm
# A component with standard deviation d has d^(1 - 0.7) in the latent. Quantization noise in the output then grows with
# d^0.7: it is largest where a loud signal masks it, as in the noise shaping of speech codecs.
_SHAPING = 0.7


@torch.no_grad()
def pca_init_(codec: Codec, audio: Tensor) -> None:
    """Sets the weights of encoder and decoder to a transform into principal components of `audio` and its inverse.

    A decoder that is not a SEANet of the encoder's settings is left unchanged.

    Args:
        audio: Representative segments that are not all silent.

    Shape: audio [B, C, T].

    Raises:
        ValueError: The encoder is not a SEANet, normalizes its activations, or has too few channels for pairs. Or
            `audio` is silent or shorter than a frame.
    """
    config = codec.config
    net = part_settings(config.to_dict(), "encoder")
    if net["name"] != "SEANet":
        raise ValueError(f"init=pca needs a SEANet encoder, got {net['name']}: set trainer.init=random")
    if net["activation"] == "snake":
        raise ValueError("init=pca works with the activations relu and elu, got snake: set trainer.init=random")
    if net["norm"] == "time_group_norm":
        raise ValueError("init=pca does not work with norm=time_group_norm: set trainer.init=random")
    if net["filters"] < 2 * config.channels:
        raise ValueError(
            f"init=pca needs two filters per audio channel, at least {2 * config.channels} filters, "
            f"got {net['filters']}: raise codec.network.filters or set trainer.init=random"
        )
    whole = audio.shape[-1] // config.hop_samples * config.hop_samples
    level = audio.std()
    if whole == 0 or not level > 0:
        raise ValueError(f"expected audio that is not silent and has at least {config.hop_samples} samples")
    signal = audio[..., :whole] / level  # [B, d, T], d signals at the rate of a layer

    pairs = _RELU_PAIRS if net["activation"] == "relu" else _ELU_PAIRS
    inverses = _set_encoder(pairs, codec.encoder, signal, level, config.latent_dim)
    if part_settings(config.to_dict(), "decoder") == net:
        _set_decoder(pairs, codec.decoder, inverses)


class _Inverse(NamedTuple):
    """What a decoder layer computes to invert an encoder layer."""

    basis: Tensor  # [n, d, stride]
    output: Tensor | None  # [B, d, T] signals that it outputs as pairs of channels; None: it outputs them directly
    reads_pairs: bool = True


def _set_encoder(pairs: _Pairs, encoder: nn.Module, signal: Tensor, level: Tensor, latent_dim: int) -> list[_Inverse]:
    """Sets all layers of the encoder.

    Args:
        signal: Audio that is divided by `level`.

    Returns:
        The inverse of each convolution in order.

    Shape: signal [B, C, T], level [].
    """
    layers = list(cast(nn.Sequential, encoder.layers))
    _zero_residual_paths(layers)
    first, *strided, last = (layer for layer in layers if isinstance(layer, Conv1d))
    one = torch.eye(signal.shape[1], device=signal.device)[..., None]  # [d, d, 1]
    _set_encoder_layer(pairs, first, one / level, signal, reads_pairs=False)
    inverses = [_Inverse(one * level, None)]
    for down in strided:
        basis, components = _principal_components(signal, down.stride, len(_weight(down)) // 2)
        _set_encoder_layer(pairs, down, basis, components)
        inverses.append(_Inverse(basis, signal))
        signal = components
    basis, components = _principal_components(signal, 1, latent_dim)
    deviation = components.square().mean((0, 2)).sqrt()[:, None, None]
    shape = (deviation / deviation[0]).clamp_min(1e-3) ** -_SHAPING
    _set_encoder_layer(pairs, last, basis * shape, None)
    return [*inverses, _Inverse(basis / shape, signal, reads_pairs=False)]


def _set_decoder(pairs: _Pairs, decoder: nn.Module, inverses: Sequence[_Inverse]) -> None:
    """Sets all layers of the decoder that mirrors the encoder."""
    layers = list(cast(nn.Sequential, decoder.layers))
    _zero_residual_paths(layers)
    convolutions = [layer for layer in layers if isinstance(layer, Conv1d | ConvTranspose1d)]
    for layer, inverse in zip(reversed(convolutions), inverses, strict=True):
        _set_decoder_layer(pairs, layer, *inverse)


def _principal_components(signal: Tensor, stride: int, max_components: int) -> tuple[Tensor, Tensor]:
    """Principal components of blocks of `stride` frames.

    Shape: signal [B, d, T] -> basis [n, d, stride] with n <= `max_components`, components [B, n, T / stride].
    """
    dim, frames = signal.shape[1:]
    blocks = signal.unflatten(-1, (frames // stride, stride)).transpose(1, 2).flatten(2)  # [B, T / stride, d stride]
    rows = blocks.flatten(0, 1).double()
    vectors = torch.linalg.eigh((rows.T @ rows).cpu()).eigenvectors  # in ascending order
    basis = vectors.T.flip(0)[:max_components].to(signal)
    return basis.unflatten(1, (dim, stride)), (blocks @ basis.T).transpose(1, 2)


def _set_encoder_layer(
    pairs: _Pairs, layer: Conv1d, basis: Tensor, output: Tensor | None, reads_pairs: bool = True
) -> None:
    """Makes `layer` compute the components of the block that begins with its frame.

    Args:
        output: The components, if they are output as pairs of channels: [B, n, F]. None outputs them directly.
        reads_pairs: Whether the input of the layer consists of pairs.

    Shape: basis [n, d, stride].
    """
    weight, bias = _weight(layer).clone(), torch.zeros_like(_bias(layer))
    taps = _paired(pairs.factor * basis, 1) if reads_pairs else basis
    if output is not None:
        taps = _paired(taps, 0)
        bias[: len(taps)] = pairs.offset * _deviations(output)
    weight[: len(taps)] = 0
    weight[: len(taps), : taps.shape[1], layer.left_padding : layer.left_padding + taps.shape[2]] = taps
    _assign(layer, weight, bias)


def _set_decoder_layer(
    pairs: _Pairs, layer: Conv1d | ConvTranspose1d, basis: Tensor, output: Tensor | None, reads_pairs: bool = True
) -> None:
    """Makes `layer` compute a block from its components. The basis is orthogonal, so its transpose is the inverse.

    Args:
        output: The block's signals, if they are output as pairs of channels: [B, d, T]. None outputs them directly.
        reads_pairs: Whether the input of the layer consists of pairs.

    Shape: basis [n, d, stride].
    """
    transposed = isinstance(layer, ConvTranspose1d)
    weight, bias = _weight(layer).clone(), torch.zeros_like(_bias(layer))
    rows = weight if transposed else weight.transpose(0, 1)  # [in, out, taps], a view
    taps = _paired(pairs.factor * basis, 0) if reads_pairs else basis
    if output is not None:
        taps = _paired(taps, 1)
        bias[: taps.shape[1]] = pairs.offset * _deviations(output)
    first = layer.left_trim if isinstance(layer, ConvTranspose1d) else layer.left_padding
    rows[:, : taps.shape[1]] = 0
    rows[: len(taps), : taps.shape[1], first : first + taps.shape[2]] = taps
    _assign(layer, weight, bias)


def _zero_residual_paths(layers: Sequence[nn.Module]) -> None:
    """Makes the output of every residual path zero, with a gradient at the factor that is zero."""
    for layer in layers:
        match layer:
            case ResidualUnit():
                _zero(cast(Conv1d, layer.block[-1]))
                if isinstance(layer.shortcut, Conv1d):
                    identity = torch.eye(len(_weight(layer.shortcut)))[..., None].to(_weight(layer.shortcut))
                    _assign(layer.shortcut, identity, torch.zeros_like(_bias(layer.shortcut)))
            case ResidualLSTM():
                # With a candidate gate of zero (the third of four gates) the cell stays zero.
                width, last = layer.lstm.hidden_size, layer.lstm.num_layers - 1
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    layer.lstm.get_parameter(f"{name}_l{last}")[2 * width : 3 * width] = 0


def _zero(layer: Conv1d) -> None:
    weight_gain(layer).zero_()
    _bias(layer).zero_()


def _assign(layer: Conv1d | ConvTranspose1d, weight: Tensor, bias: Tensor) -> None:
    conv = layer.conv
    if parametrize.is_parametrized(conv, "weight"):
        direction = conv.get_parameter(_DIRECTION)
        norms = weight.flatten(1).norm(dim=1)[:, None, None]
        weight_gain(layer).copy_(norms)
        direction.copy_(torch.where(norms > 0, weight, direction))  # so that a row of zeros gets a gradient
    else:
        conv.weight.copy_(weight)
    _bias(layer).copy_(bias)


def _paired(taps: Tensor, dim: int) -> Tensor:
    """Replaces each index of `dim` by two with opposite signs. Shape: [.., n, ..] -> [.., 2 n, ..]."""
    return torch.stack([taps, -taps], dim + 1).flatten(dim, dim + 1)


def _deviations(signal: Tensor) -> Tensor:
    """Standard deviation of each signal, repeated for both channels of its pair. Shape: signal [B, d, T] -> [2 d]."""
    return signal.square().mean((0, 2)).sqrt().repeat_interleave(2)


def _weight(layer: Conv1d | ConvTranspose1d) -> Tensor:
    return cast(Tensor, layer.conv.weight)


def _bias(layer: Conv1d | ConvTranspose1d) -> Tensor:
    return cast(Tensor, layer.conv.bias)
