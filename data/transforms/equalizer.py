"""A random frequency response, as of another microphone or room."""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from codec.ranges import Probability, SampleRate, check_ranges
from data.sources import limit_peak
from data.transforms.draws import draw

__all__ = ["RandomEqualizer"]

_LOWEST = 62.5  # Hz, the first band; each further band is an octave higher


class RandomEqualizer:
    """Amplifies and attenuates octave bands at random.

    Every band draws a gain in dB; between the centres of bands the gain is linear over the logarithm of the frequency,
    beyond the outermost it is constant. No phase is changed. The mean of the gains is 0 dB, and the peak stays at most
    1.

    Args:
        sample_rate: Of the segments in Hz.
        maximum_db: Gains are uniform between this and its negative.
        probability: Of a change at all.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self, sample_rate: SampleRate, maximum_db: Annotated[float, Ge(0)] = 6.0, probability: Probability = 1.0
    ) -> None:
        check_ranges(RandomEqualizer.__init__, locals())
        self.sample_rate = sample_rate
        self.maximum_db = maximum_db
        self.probability = probability

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        changes = draw(0, 1, generator) < self.probability
        bands = max(1, math.floor(math.log2(self.sample_rate / 2 / _LOWEST)) + 1)
        gains = self.maximum_db * (2 * torch.rand(bands, generator=generator) - 1)
        if not changes or audio.shape[-1] == 0:
            return audio
        samples = 2 * audio.shape[-1]  # zeros in the second half: the response wraps around into them
        octaves = (torch.fft.rfftfreq(samples, 1 / self.sample_rate).clamp(min=1) / _LOWEST).log2().clamp(0, bands - 1)
        below = octaves.floor().long().clamp(max=max(0, bands - 2))
        part = octaves - below
        decibels = gains[below] * (1 - part) + gains[(below + 1).clamp(max=bands - 1)] * part
        response = 10 ** ((decibels - gains.mean()) / 20)
        changed = torch.fft.irfft(torch.fft.rfft(audio, samples) * response, samples)[..., : audio.shape[-1]]
        return limit_peak(changed)
