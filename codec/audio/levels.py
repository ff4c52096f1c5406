"""Levels of audio that a user should know of before it is coded."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Levels"]

_PEAK_LIMIT = 2**0.5  # 3 dB above full scale; lossy formats overshoot by less
_CANCELLED = 0.01  # power of the mono mix / mean power of the channels


class Levels:
    """Peak of a signal, and whether its channels cancel each other, measured block by block.

    Attributes:
        peak: Largest absolute sample so far; 1 is full scale.
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self._power = 0.0  # sums over all samples, of the mean over the channels and of the mono mix
        self._mono_power = 0.0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Takes the next samples, with the channels of the source.

        Shape: [t, C].
        """
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        if samples.shape[1] > 1 and len(samples):
            values = samples.astype(np.float64)
            self._power += float(np.square(values).mean(1).sum())
            self._mono_power += float(np.square(values.mean(1)).sum())

    def notes(self) -> list[str]:
        """Sentences for the user about what was unusual so far."""
        notes = []
        if self.peak > _PEAK_LIMIT:
            decibels = 20 * math.log10(self.peak)
            notes.append(f"The peak is {self.peak:.4g}, {decibels:.1f} dB above full scale; decoding clips it to 1.")
        if self._mono_power < _CANCELLED * self._power:
            silent = self._mono_power < 1e-10 * self._power
            mix = "silent" if silent else f"{10 * math.log10(self._power / self._mono_power):.0f} dB below them"
            notes.append(f"The channels cancel each other: their mono mix is {mix}. One channel may be inverted.")
        return notes
