"""Opus (RFC 6716), the conventional codec that neural codecs are compared with, encoded and decoded by libsndfile."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from codec.audio import resample

__all__ = ["OpusResult", "code_with_opus", "packet_bytes", "possible_opus_bitrates"]

_SAMPLE_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz
# libsndfile takes a compression level in [0, 1], which stands for 256 to 6 kbps per channel.
_MIN_KBPS, _MAX_KBPS = 6.0, 256.0
_HEADER_PACKETS = 2  # RFC 7845: identification and comments


class OpusResult(NamedTuple):
    """One clip, coded and decoded."""

    audio: Tensor  # [C, T], aligned with the input
    file_bytes: int  # size of the Ogg file: packets, headers (about 800 bytes) and pages
    payload_bytes: int  # size of the audio packets alone


def possible_opus_bitrates(bitrates_kbps: Sequence[float], channels: int) -> tuple[list[float], list[str]]:
    """The bitrates at which libsndfile can code, and a note for each reason to leave one out."""
    if not soundfile.check_format("OGG", "OPUS"):
        return [], [f"Opus is left out: libsndfile {soundfile.__libsndfile_version__} was built without it"]
    possible = [kbps for kbps in bitrates_kbps if _MIN_KBPS <= kbps / channels <= _MAX_KBPS]
    return possible, [
        f"Opus at {kbps:g} kbps is left out: libsndfile offers {_MIN_KBPS:g} to {_MAX_KBPS:g} kbps per channel, "
        f"and the audio has {channels}"
        for kbps in bitrates_kbps
        if kbps not in possible
    ]


def code_with_opus(audio: Tensor, sample_rate: int, bitrate_kbps: float) -> OpusResult:
    """Codes and decodes a clip with libopus: variable bitrate, packets of 20 ms, automatic choice of the mode.

    Audio at a sample rate that Opus does not support is resampled to 48 kHz and back.

    Args:
        audio: Samples in about [-1, 1].
        sample_rate: In Hz.
        bitrate_kbps: Target bitrate of all channels together. The actual one differs, see `payload_bytes`.

    Shape: audio [C, T] -> audio [C, T].

    Raises:
        ValueError: libsndfile does not offer the bitrate.
    """
    channels, samples = audio.shape
    level = (_MAX_KBPS - bitrate_kbps / channels) / (_MAX_KBPS - _MIN_KBPS)
    if not 0 <= level <= 1:
        raise ValueError(
            f"expected {_MIN_KBPS:g} to {_MAX_KBPS:g} kbps per channel, got {bitrate_kbps:g} for {channels} channels"
        )
    opus_rate = sample_rate if sample_rate in _SAMPLE_RATES else 48_000
    file = io.BytesIO()
    source = resample(audio, sample_rate, opus_rate).T.numpy()
    soundfile.write(file, source, opus_rate, format="OGG", subtype="OPUS", compression_level=level)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
    packets = packet_bytes(file.getvalue())
    estimate = resample(torch.from_numpy(decoded.T.copy()), opus_rate, sample_rate)[:, :samples]
    return OpusResult(estimate, len(file.getvalue()), sum(packets[_HEADER_PACKETS:]))


def packet_bytes(ogg: bytes) -> list[int]:
    """Sizes of the packets in an Ogg file with one stream (RFC 3533), headers included."""
    sizes, size, position = [], 0, 0
    while position < len(ogg):
        count = ogg[position + 26]
        lengths = ogg[position + 27 : position + 27 + count]
        for length in lengths:
            size += length
            if length < 255:  # a segment of 255 bytes continues in the next one, possibly on the next page
                sizes.append(size)
                size = 0
        position += 27 + count + sum(lengths)
    return sizes
