"""Faster and slower playback: pitch, formants and tempo change together, so one speaker sounds like many."""

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from codec.audio import ResamplingFilter
from codec.ranges import Probability, check_ranges
from data.entries import DataError
from data.transforms.draws import draw

__all__ = ["RandomSpeed"]

_STEPS = 100  # speeds are multiples of 1 / _STEPS, so that few filters are needed; each is kept


class RandomSpeed:
    """Plays a segment faster or slower by a random factor (Ko et al., Audio Augmentation for Speech Recognition, 2015).

    The segment is resampled with the project's resampler, so it equals a part of the whole recording at that speed. For
    that, it is given as many samples as the highest speed needs, and the reach of the filter on both sides.

    Args:
        minimum, maximum: Range of the factor, which is uniform in steps of 0.01. 1.1 is 10 % faster and 1.65 semitones
            higher.
        probability: Of a change at all.

    Raises:
        ValueError: A value is out of range, or the minimum is above the maximum.
    """

    def __init__(
        self,
        minimum: Annotated[float, Ge(0.25), Le(4)] = 0.9,
        maximum: Annotated[float, Ge(0.25), Le(4)] = 1.1,
        probability: Probability = 1.0,
    ) -> None:
        check_ranges(RandomSpeed.__init__, locals())
        if not minimum <= maximum:
            raise DataError(f"expected minimum <= maximum, got {minimum:g} and {maximum:g}")
        self.minimum = minimum
        self.maximum = maximum
        self.probability = probability
        self._filters: dict[int, ResamplingFilter] = {}

    def input_samples(self, samples: int) -> int:
        """As in `NeedsMoreSamples`: what the highest speed needs, or 0.99 if that is 1, which needs no filter."""
        lowest, highest = round(self.minimum * _STEPS), round(self.maximum * _STEPS)
        filters = map(self._filter, (highest, max(lowest, min(highest, _STEPS - 1))))
        return max(samples, *(last - first for first, last in (each.input_range(0, samples) for each in filters)))

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T'], T' samples or more where T is `input_samples(T')`."""
        changes = draw(0, 1, generator) < self.probability
        factor = draw(self.minimum, self.maximum, generator)
        if not changes:
            return audio
        apply = self._filter(round(factor * _STEPS))
        first = apply.input_range(0, 1)[0]
        return apply(audio, first, 0, apply.outputs_before(first + audio.shape[-1]))

    def _filter(self, steps: int) -> ResamplingFilter:
        if steps not in self._filters:
            self._filters[steps] = ResamplingFilter(steps, _STEPS)
        return self._filters[steps]
