"""Opus (RFC 6716), the classical codec that learned ones are measured against, as libsndfile writes it."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from data import resample

__all__ = ["OpusResult", "code_with_opus", "opus_bandwidths", "packet_bytes"]

_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz
# libsndfile knows the rate as a "compression level" of 0 to 1, which stands for 256 to 6 kbps per channel.
_LEAST_KBPS, _MOST_KBPS = 6.0, 256.0
_HEADER_PACKETS = 2  # RFC 7845: identification and comments


class OpusResult(NamedTuple):
    """What became of one clip."""

    audio: Tensor  # [C, T], aligned with what was coded
    file_bytes: int  # of the whole Ogg file: packets, headers (some 800 bytes) and pages
    payload_bytes: int  # of the audio packets alone


def opus_bandwidths(wanted_kbps: Sequence[float], channels: int) -> tuple[list[float], list[str]]:
    """Those of the wanted rates that can be coded at here, and a line for what cannot."""
    if not soundfile.check_format("OGG", "OPUS"):
        return [], [f"Opus is left out: libsndfile {soundfile.__libsndfile_version__} was built without it"]
    possible = [kbps for kbps in wanted_kbps if _LEAST_KBPS <= kbps / channels <= _MOST_KBPS]
    return possible, [
        f"Opus at {kbps:g} kbps is left out: libsndfile offers {_LEAST_KBPS:g} to {_MOST_KBPS:g} kbps per channel, "
        f"and there are {channels}"
        for kbps in wanted_kbps
        if kbps not in possible
    ]


def code_with_opus(audio: Tensor, sample_rate: int, bandwidth_kbps: float) -> OpusResult:
    """Codes and decodes a clip with libopus' variable rate, 20 ms packets and automatic choice of mode.

    Rates that Opus does not know go through 48 kHz.

    Args:
        audio: in about [-1, 1].
        sample_rate: in Hz.
        bandwidth_kbps: that libopus aims at, all channels together; what it takes is for the caller to measure.

    Shape: audio [C, T] -> audio [C, T].

    Raises:
        ValueError: the bandwidth is out of libsndfile's reach.
    """
    channels, samples = audio.shape
    level = (_MOST_KBPS - bandwidth_kbps / channels) / (_MOST_KBPS - _LEAST_KBPS)
    if not 0 <= level <= 1:
        raise ValueError(
            f"{_LEAST_KBPS:g} to {_MOST_KBPS:g} kbps per channel are wanted, got {bandwidth_kbps:g} for {channels}"
        )
    rate = sample_rate if sample_rate in _RATES else 48_000
    file = io.BytesIO()
    source = resample(audio, sample_rate, rate).T.numpy()
    soundfile.write(file, source, rate, format="OGG", subtype="OPUS", compression_level=level)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
    packets = packet_bytes(file.getvalue())
    estimate = resample(torch.from_numpy(decoded.T.copy()), rate, sample_rate)[:, :samples]
    return OpusResult(estimate, len(file.getvalue()), sum(packets[_HEADER_PACKETS:]))


def packet_bytes(ogg: bytes) -> list[int]:
    """Sizes of the packets in an Ogg file of one stream (RFC 3533), headers included."""
    sizes, size, position = [], 0, 0
    while position < len(ogg):
        count = ogg[position + 26]
        lengths = ogg[position + 27 : position + 27 + count]
        for length in lengths:
            size += length
            if length < 255:  # a segment of 255 bytes is continued, on the next page if need be
                sizes.append(size)
                size = 0
        position += 27 + count + sum(lengths)
    return sizes
