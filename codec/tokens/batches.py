"""Signals of different lengths encoded in one batch, with the codes that each has alone.

For GPUs, which are idle for most of the time with one signal. On a CPU a batch gains nothing. In float32 a latent may
differ in its last bits from that of the signal alone, because the hardware adds in another order. A latent that is
equally near to two codes may then get the other one.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.model import Codec, EncodedSegment
from codec.network.conv import Conv1d

__all__ = ["encode_signals", "mixes_lengths", "shortest_of_batch"]


def encode_signals(
    codec: Codec, signals: Sequence[Tensor], bandwidth_kbps: float | None, batch_samples: int
) -> list[EncodedSegment]:
    """The result of `codec.encode_segment` for each signal, in batches of similar length.

    Args:
        codec: In eval mode.
        signals: At least one sample each, on any device.
        bandwidth_kbps: As in `Codec.encode_segments`.
        batch_samples: A batch has at most this number of samples with its padding, or one signal.

    Shape: signals [C, T] each -> codes [1, K, F] each.
    """
    device = next(codec.parameters()).device
    encoded: dict[int, EncodedSegment] = {}
    for batch in _batches(codec, [signal.shape[-1] for signal in signals], batch_samples):
        lengths = [signals[i].shape[-1] for i in batch]
        if len(set(lengths)) == 1:
            audio = torch.stack([signals[i] for i in batch]).to(device)
            codes, gain = codec.encode_segment(audio, bandwidth_kbps)
        else:
            padded = max(lengths) + -max(lengths) % codec.config.hop_samples + _room(codec)
            audio = torch.stack([F.pad(signals[i], (0, padded - signals[i].shape[-1])) for i in batch]).to(device)
            codes, gain = _encode_mixed(codec, audio, lengths, bandwidth_kbps), None
        for row, i in enumerate(batch):
            frames = -(-lengths[row] // codec.config.hop_samples)
            encoded[i] = EncodedSegment(codes[row : row + 1, :, :frames], None if gain is None else gain[row])
    return [encoded[i] for i in range(len(signals))]


def mixes_lengths(codec: Codec) -> bool:
    """Whether a batch may have signals of several lengths.

    The encoder says so, see `codec.network.Network`, and the RMS is an average over the whole signal. Otherwise only
    signals of equal length share a batch, such as the segments of the 48 kHz model.
    """
    return getattr(codec.encoder, "mixes_lengths", False) and not codec.config.normalize


def shortest_of_batch(codec: Codec) -> int:
    """Samples from which on a signal may share a batch with longer ones: no layer pads it with more than it has."""
    samples, stride = 1, 1
    for layer in _convolutions(codec.encoder):
        padding = max(layer.left_padding, layer.right_padding + layer.stride - 1)
        samples = max(samples, (padding + 1) * stride)
        stride *= layer.stride
    return samples


def _room(codec: Codec) -> int:
    """Samples to add to the longest signal, in whole frames: room for what every layer pads it with on the right."""
    samples, stride = 0, 1
    for layer in _convolutions(codec.encoder):
        samples = max(samples, layer.right_padding * stride)
        stride *= layer.stride
    return samples + -samples % codec.config.hop_samples


def _batches(codec: Codec, lengths: Sequence[int], batch_samples: int) -> Iterator[list[int]]:
    """Indices of the signals of each batch."""
    shortest = shortest_of_batch(codec) if mixes_lengths(codec) else max(lengths, default=0) + 1
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch:
            is_equal = lengths[batch[0]] == lengths[i]
            fits = (len(batch) + 1) * lengths[i] <= batch_samples
            if not fits or not (is_equal or lengths[batch[0]] >= shortest):
                yield batch
                batch = []
        batch.append(i)
    if batch:
        yield batch


def _encode_mixed(codec: Codec, audio: Tensor, lengths: list[int], bandwidth_kbps: float | None) -> Tensor:
    """Shape: audio [B, C, T] with `_room` after the longest signal -> codes [B, K, F], arbitrary after the end."""
    ends = _SignalEnds(lengths, audio.device)
    handles = []
    for layer in _convolutions(codec.encoder):
        handles += [layer.register_forward_pre_hook(ends.pad), layer.register_forward_hook(ends.shorten)]
    try:
        with torch.no_grad():
            return codec.quantizer.encode(codec.encoder(audio), codec.config.codebooks_for(bandwidth_kbps))
    finally:
        for handle in handles:
            handle.remove()


class _SignalEnds:
    """Gives the convolutions of a padded batch, after the end of each signal, the padding that it would get alone.

    Args:
        lengths: Of the signals, in samples. They are kept at the rate of the current layer.
        device: Of the batch.
    """

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        self.shortest = min(lengths)
        self.lengths = torch.tensor(lengths, device=device)[:, None]

    def pad(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Pre-hook: writes the padding in place. All values after the end of a signal are arbitrary before."""
        assert isinstance(layer, Conv1d)
        (x,) = inputs
        position = torch.arange(self.shortest, x.shape[-1], device=x.device)[None]
        if layer.padding == "reflect":
            last = self.lengths - 1
            index = torch.where(position > last, 2 * last - position, position).clamp(min=0)
            x[..., self.shortest :] = x.gather(-1, index[:, None].expand(-1, x.shape[1], -1))
        else:
            x[..., self.shortest :] *= (position < self.lengths)[:, None]

    def shorten(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        """Hook: a stride shortens the signals."""
        assert isinstance(layer, Conv1d)
        self.lengths = -(-self.lengths // layer.stride)
        self.shortest = -(-self.shortest // layer.stride)


def _convolutions(encoder: nn.Module) -> list[Conv1d]:
    return [module for module in encoder.modules() if isinstance(module, Conv1d)]
