"""Bandwidth of recordings: many files have a high sampling rate and an empty top of the band."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from codec.audio import AudioFile, AudioFileError
from data.entries import DataError, Entry
from data.manifest import Manifest

__all__ = ["bandwidth_hz", "bandwidth_weights", "measure_bandwidths"]

_WINDOW_SECONDS = 0.02
_RANGE_DB = 80.0  # below the strongest band; lossy formats leave nothing above their limit
_PIECES = 8  # measured in each file
_PIECE_SECONDS = 1.0
_KEY = "bandwidth_hz"  # of a manifest's line


def bandwidth_hz(audio: Tensor, sample_rate: int) -> float:
    """The frequency up to which the spectrum reaches: the upper end of the highest band within 80 dB of the strongest.

    The bands are 50 Hz wide. Their power is a mean over windows (Welch, 1967) and channels.

    Shape: [C, T] -> number in Hz; 0 for silence.
    """
    size = min(round(_WINDOW_SECONDS * sample_rate), audio.shape[-1])
    if size < 2:
        return 0.0
    windows = audio.double().unfold(-1, size, max(1, size // 2)) * _blackman_harris(size)
    power = torch.fft.rfft(windows).abs().square().mean((0, 1))
    present = (power > power.max() * 10 ** (-_RANGE_DB / 10)).nonzero()
    return float(present[-1]) * sample_rate / size if len(present) else 0.0


def _blackman_harris(size: int) -> Tensor:
    """A window with side lobes below -92 dB (Harris, On the Use of Windows for Harmonic Analysis, 1978).

    Shape: -> [size].
    """
    angle = 2 * torch.pi * torch.arange(size, dtype=torch.float64) / size
    terms = ((0.35875, 0), (-0.48829, 1), (0.14128, 2), (-0.01168, 3))
    return torch.stack([weight * torch.cos(harmonic * angle) for weight, harmonic in terms]).sum(0)


def measure_bandwidths(manifest: Manifest) -> Manifest:
    """The manifest with the key `bandwidth_hz` for each file: the highest of eight pieces of 1 s.

    Files that do not decode get no such key.
    """
    return replace(manifest, entries=[_measured(entry, manifest.path(entry)) for entry in manifest.entries])


def bandwidth_weights(entries: Sequence[Entry], full_band_hz: float, narrow_band_weight: float) -> list[float]:
    """1 for files whose bandwidth is at least `full_band_hz`, and `narrow_band_weight` for others.

    A file without the key `bandwidth_hz` has that of its sampling rate.

    Raises:
        DataError: The weight is not in [0, 1], or a line has a bandwidth that is not a number.
    """
    if not 0 <= narrow_band_weight <= 1:
        raise DataError(f"expected a narrow_band_weight in [0, 1], got {narrow_band_weight:g}")
    return [1.0 if _bandwidth(entry) >= full_band_hz else narrow_band_weight for entry in entries]


def _bandwidth(entry: Entry) -> float:
    value = (entry.further or {}).get(_KEY, entry.sample_rate / 2)
    if not isinstance(value, int | float):
        raise DataError(f"{entry.path}: {_KEY}: expected a number, got {value!r}")
    return min(value, entry.sample_rate / 2)


def _measured(entry: Entry, path: str | os.PathLike[str]) -> Entry:
    frames = min(entry.frames, round(_PIECE_SECONDS * entry.sample_rate))
    try:
        with AudioFile(path) as file:
            starts = np.linspace(0, entry.frames - frames, _PIECES if frames < entry.frames else 1).astype(int)
            pieces = [file.read_frames(start, start + frames) for start in starts.tolist()]
    except AudioFileError:
        return entry
    highest = max(bandwidth_hz(piece, entry.sample_rate) for piece in pieces)
    return replace(entry, further={**(entry.further or {}), _KEY: round(highest)})
