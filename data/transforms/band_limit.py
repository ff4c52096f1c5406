"""Band limits, as in telephone speech and lossy formats."""

import torch
from torch import Tensor

from codec.audio import resample
from codec.ranges import Probability, SampleRate, check_ranges
from data.entries import DataError
from data.transforms.draws import draw

__all__ = ["RandomBandLimit"]

_STEP_HZ = 500  # so that few filters are needed


class RandomBandLimit:
    """Removes all above a random frequency from some segments, by resampling to twice that frequency and back.

    Args:
        sample_rate: Of the segments in Hz.
        minimum_hz, maximum_hz: Range of the frequency, which is a multiple of 500 Hz. What lies below 0.94 of it is
            kept.
        probability: Of a limit.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        sample_rate: SampleRate,
        minimum_hz: float = 4000,
        maximum_hz: float = 8000,
        probability: Probability = 0.2,
    ) -> None:
        check_ranges(RandomBandLimit.__init__, locals())
        if not _STEP_HZ <= minimum_hz <= maximum_hz <= sample_rate / 2:
            raise DataError(
                f"expected {_STEP_HZ} <= minimum_hz <= maximum_hz <= {sample_rate / 2:g} (half of sample_rate), "
                f"got {minimum_hz:g} and {maximum_hz:g}"
            )
        self.sample_rate = sample_rate
        self.minimum_hz = minimum_hz
        self.maximum_hz = maximum_hz
        self.probability = probability

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        if draw(0, 1, generator) >= self.probability:
            return audio
        limit_hz = round(draw(self.minimum_hz, self.maximum_hz, generator) / _STEP_HZ) * _STEP_HZ
        limited = resample(resample(audio, self.sample_rate, 2 * limit_hz), 2 * limit_hz, self.sample_rate)
        return limited[:, : audio.shape[-1]]
