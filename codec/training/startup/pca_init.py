"""First weights under which an untrained codec already codes waveforms: a transform codec, found layer by layer.

A random SEANet spends its first thousands of steps on learning what any transform codec knows: that a frame of audio
can be put into a basis and back. Here every strided convolution takes the principal components of its blocks, the
transposed one across from it their inverse, and the residual units add nothing yet. k-means on these latents then is
a vector quantizer of principal components, and training starts from waveforms that are right in phase.

The network stays linear, nearly, because two channels hold each signal s. With ReLU activations they hold the halves of
a wave, at any level:
    ReLU(s) - ReLU(-s) = s.
The ELU needs a constant c beside it:
    ELU(c + s) - ELU(c - s) = 2 s    for |s| <= c,
which training has to keep cancelled, and which makes silence louder.
Channels and taps that carry no signal keep their random weights, and what leads from them into a signal is zero: it
learns from the first step.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec.model import Codec
from codec.network.conv import Conv1d, ConvTranspose1d, weight_gain
from codec.network.seanet import ResidualLSTM, ResidualUnit

__all__ = ["pca_init_"]


class _Pairs(NamedTuple):
    """How two channels hold a signal."""

    room: float  # c, in standard deviations of s
    read: float  # what the difference of the two is to be multiplied by


_RECTIFIED, _ROOMY = _Pairs(0.0, 1.0), _Pairs(4.0, 0.5)

_DIRECTION = "parametrizations.weight.original1"  # of weight norm
# A component with standard deviation d has d^(1 - 0.7) in the latent. What quantization adds to it then goes with
# d^0.7: most where the signal is loud and hides it, as in the noise shaping of speech codecs.
_SHAPING = 0.7


@torch.no_grad()
def pca_init_(codec: Codec, audio: Tensor) -> None:
    """Sets all weights of encoder and decoder from what the principal components of `audio` are; the codebooks stay.

    Args:
        audio: Representative, and not silent; any number of segments.

    Shape: audio [B, C, T].

    Raises:
        ValueError: The codec normalizes its activations or has too few channels for pairs, or `audio` is silence.
    """
    config = codec.config
    net = config.network
    if net["name"] != "SEANet":
        raise ValueError(f"init=pca is for a SEANet, got a {net['name']}: set trainer.init=random")
    if net["norm"] == "time_group_norm":
        raise ValueError("a codec with group norms is no transform, whatever its weights: set trainer.init=random")
    if net["filters"] < 2 * config.channels:
        raise ValueError(
            f"a signal takes two channels: expected at least {2 * config.channels} filters, got {net['filters']}"
        )
    whole = audio.shape[-1] // config.hop_samples * config.hop_samples
    level = audio.std()
    if whole == 0 or not level > 0:
        raise ValueError(f"expected audio that is no silence and at least {config.hop_samples} samples long")
    signal = audio[..., :whole] / level  # [B, d, T]: d signals at the rate of a layer

    encoder_layers, decoder_layers = (list(cast(nn.Sequential, part.layers)) for part in (codec.encoder, codec.decoder))
    encoder = [layer for layer in encoder_layers if isinstance(layer, Conv1d)]
    decoder = [layer for layer in decoder_layers if isinstance(layer, Conv1d | ConvTranspose1d)][::-1]
    _silence_side_paths([*encoder_layers, *decoder_layers])

    held = _RECTIFIED if net["activation"] == "relu" else _ROOMY
    one = torch.eye(config.channels, device=audio.device)[..., None]  # [d, d, 1]
    _set_encoding(held, encoder[0], one / level, signal, reads_pairs=False)
    _set_decoding(held, decoder[0], one * level, None)
    for down, up in zip(encoder[1:-1], decoder[1:-1], strict=True):
        basis, components = _principal_components(signal, down.stride, len(_weight(down)) // 2)
        _set_encoding(held, down, basis, components)
        _set_decoding(held, up, basis, signal)
        signal = components
    basis, components = _principal_components(signal, 1, config.latent_dim)
    deviation = components.square().mean((0, 2)).sqrt()[:, None, None]
    shape = (deviation / deviation[0]).clamp_min(1e-3) ** -_SHAPING
    _set_encoding(held, encoder[-1], basis * shape, None)
    _set_decoding(held, decoder[-1], basis / shape, signal, reads_pairs=False)


def _principal_components(signal: Tensor, stride: int, most: int) -> tuple[Tensor, Tensor]:
    """The directions in which blocks of `stride` frames vary most.

    Shape: signal [B, d, T] -> basis [n, d, stride] with n <= `most`, components [B, n, T / stride].
    """
    dim, frames = signal.shape[1:]
    blocks = signal.unflatten(-1, (frames // stride, stride)).transpose(1, 2).flatten(2)  # [B, T / stride, d stride]
    rows = blocks.flatten(0, 1).double()
    vectors = torch.linalg.eigh((rows.T @ rows).cpu()).eigenvectors  # in ascending order
    basis = vectors.T.flip(0)[:most].to(signal)
    return basis.unflatten(1, (dim, stride)), (blocks @ basis.T).transpose(1, 2)


def _set_encoding(held: _Pairs, layer: Conv1d, basis: Tensor, pairs: Tensor | None, reads_pairs: bool = True) -> None:
    """Makes `layer` take the components of the block that begins with its frame.

    Args:
        pairs: The components, if they are to come out as pairs of channels with room for them: [B, n, F].

    Shape: basis [n, d, stride].
    """
    weight, bias = _weight(layer).clone(), torch.zeros_like(_bias(layer))
    taps = _paired(held.read * basis, 1) if reads_pairs else basis
    if pairs is not None:
        taps = _paired(taps, 0)
        bias[: len(taps)] = held.room * _deviations(pairs)
    weight[: len(taps)] = 0
    weight[: len(taps), : taps.shape[1], layer.left_padding : layer.left_padding + taps.shape[2]] = taps
    _assign(layer, weight, bias)


def _set_decoding(
    held: _Pairs, layer: Conv1d | ConvTranspose1d, basis: Tensor, pairs: Tensor | None, reads_pairs: bool = True
) -> None:
    """Makes `layer` return the block that has these components: the basis is orthogonal, so its transpose does.

    Args:
        pairs: The signals of the block, if they are to come out as pairs of channels: [B, d, T].

    Shape: basis [n, d, stride].
    """
    transposed = isinstance(layer, ConvTranspose1d)
    weight, bias = _weight(layer).clone(), torch.zeros_like(_bias(layer))
    rows = weight if transposed else weight.transpose(0, 1)  # [in, out, taps], a view
    taps = _paired(held.read * basis, 0) if reads_pairs else basis
    if pairs is not None:
        taps = _paired(taps, 1)
        bias[: taps.shape[1]] = held.room * _deviations(pairs)
    first = layer.left_trim if isinstance(layer, ConvTranspose1d) else layer.left_padding
    rows[:, : taps.shape[1]] = 0
    rows[: len(taps), : taps.shape[1], first : first + taps.shape[2]] = taps
    _assign(layer, weight, bias)


def _silence_side_paths(layers: Sequence[nn.Module]) -> None:
    """Lets every residual path begin at zero, with a gradient in the factor that makes it so."""
    for layer in layers:
        match layer:
            case ResidualUnit():
                _silence(cast(Conv1d, layer.block[-1]))
                if isinstance(layer.shortcut, Conv1d):
                    weight = _weight(layer.shortcut)
                    _assign(
                        layer.shortcut,
                        torch.eye(len(weight)).to(weight)[..., None],
                        torch.zeros_like(_bias(layer.shortcut)),
                    )
            case ResidualLSTM():
                # The cell is the sum of what its candidate gate (the third of four) lets in.
                width, last = layer.lstm.hidden_size, layer.lstm.num_layers - 1
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    layer.lstm.get_parameter(f"{name}_l{last}")[2 * width : 3 * width] = 0


def _silence(layer: Conv1d) -> None:
    weight_gain(layer).zero_()
    _bias(layer).zero_()


def _assign(layer: Conv1d | ConvTranspose1d, weight: Tensor, bias: Tensor) -> None:
    conv = layer.conv
    if parametrize.is_parametrized(conv, "weight"):
        direction = conv.get_parameter(_DIRECTION)
        norms = weight.flatten(1).norm(dim=1)[:, None, None]
        weight_gain(layer).copy_(norms)
        direction.copy_(torch.where(norms > 0, weight, direction))  # a zero row keeps a direction to grow in
    else:
        conv.weight.copy_(weight)
    _bias(layer).copy_(bias)


def _paired(taps: Tensor, dim: int) -> Tensor:
    """Spreads each index of `dim` over two, of opposite signs. Shape: [.., n, ..] -> [.., 2 n, ..]."""
    return torch.stack([taps, -taps], dim + 1).flatten(dim, dim + 1)


def _deviations(signal: Tensor) -> Tensor:
    """The standard deviation of each signal, for both channels of its pair. Shape: signal [B, d, T] -> [2 d]."""
    return signal.square().mean((0, 2)).sqrt().repeat_interleave(2)


def _weight(layer: Conv1d | ConvTranspose1d) -> Tensor:
    return cast(Tensor, layer.conv.weight)


def _bias(layer: Conv1d | ConvTranspose1d) -> Tensor:
    return cast(Tensor, layer.conv.bias)
