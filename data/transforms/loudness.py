"""Loudness normalization."""

import torch
from torch import Tensor

from codec.ranges import Decibels, SampleRate
from data.entries import DataError
from data.loudness import loudness_lufs
from data.sources import limit_peak

__all__ = ["NormalizeLoudness"]


class NormalizeLoudness:
    """Brings each segment to one loudness (ITU-R BS.1770), but not beyond a peak of 1. Silence is not changed.

    DAC trains at -16 dB (Kumar et al., High-Fidelity Audio Compression with Improved RVQGAN, 2023, in its
    configuration: `VolumeNorm(("const", -16))`).

    Args:
        sample_rate: Of the segments in Hz, at least 4000.
        target_lufs: The loudness.

    Raises:
        DataError: The rate is too low.
    """

    def __init__(self, sample_rate: SampleRate, target_lufs: Decibels = -16.0) -> None:
        if sample_rate < 4000:
            raise DataError(f"expected a sample_rate of at least 4000 Hz to measure loudness, got {sample_rate}")
        self.sample_rate = sample_rate
        self.target_lufs = target_lufs

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        loudness = loudness_lufs(audio, self.sample_rate)
        if loudness == -torch.inf:
            return audio
        return limit_peak(audio * 10 ** ((self.target_lufs - loudness) / 20))
