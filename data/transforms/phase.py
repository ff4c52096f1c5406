"""Phase."""

import math

import torch
from torch import Tensor

from data.sources import limit_peak
from data.transforms.draws import draw

__all__ = ["RandomPhase"]


class RandomPhase:
    """Shifts the phase of all frequencies by one random angle, uniform in [-pi, pi), but not beyond a peak of 1.

    DAC does so with each segment (`ShiftPhase` in its configuration). The levels of all frequencies are kept, and the
    waveform becomes another one. An angle of pi inverts the polarity.
    """

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        if audio.shape[-1] < 3:  # no frequency between 0 and Nyquist
            return audio
        angle = draw(-math.pi, math.pi, generator)
        spectrum = torch.fft.rfft(audio)
        inner = slice(1, (audio.shape[-1] + 1) // 2)  # 0 and the Nyquist frequency have no phase
        spectrum[:, inner] *= torch.polar(torch.tensor(1.0), torch.tensor(angle))
        return limit_peak(torch.fft.irfft(spectrum, audio.shape[-1]))
