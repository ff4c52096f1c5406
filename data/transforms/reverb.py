"""Reverberation, by synthetic impulse responses of rooms or by a folder of recorded ones."""

import torch
from torch import Tensor

from codec.audio import AudioFileError, read_range
from codec.ranges import Name, Probability, SampleRate, Seconds, check_ranges
from data.corpora import load_manifest
from data.entries import DataError
from data.reverberation import convolve, reverberation_time, synthetic_response
from data.sources import limit_peak
from data.transforms.draws import draw

__all__ = ["RandomReverb"]

_DIRECT_TO_REVERBERANT_DB = (-3.0, 12.0)  # of synthetic responses: a speaker far away, and one nearby
_MAX_ATTEMPTS = 50


class RandomReverb:
    """Convolves segments with the impulse response of a room, which starts with its direct path. Their level is kept.

    EnCodec adds reverberation to a fifth of its audio, with reverberation times of 0.3 to 1.3 s (Défossez et al., 2022,
    section 4.1).

    Args:
        sample_rate: Of the segments in Hz.
        probability: Of reverberation.
        minimum_rt60_seconds, maximum_rt60_seconds: Range of the reverberation time, which is uniform for synthetic
            responses. Recorded ones with other times are not used.
        root: A folder or a manifest of recorded responses, whose channels are averaged; None for synthetic ones.

    Raises:
        ValueError: A number is out of range, or there is no such audio.
    """

    def __init__(
        self,
        sample_rate: SampleRate,
        probability: Probability = 0.2,
        minimum_rt60_seconds: Seconds = 0.3,
        maximum_rt60_seconds: Seconds = 1.3,
        root: Name | None = None,
    ) -> None:
        check_ranges(RandomReverb.__init__, locals())
        if not minimum_rt60_seconds <= maximum_rt60_seconds:
            raise DataError(
                "expected minimum_rt60_seconds <= maximum_rt60_seconds, "
                f"got {minimum_rt60_seconds:g} and {maximum_rt60_seconds:g}"
            )
        self.sample_rate = sample_rate
        self.probability = probability
        self.minimum_rt60_seconds = minimum_rt60_seconds
        self.maximum_rt60_seconds = maximum_rt60_seconds
        self._manifest = None if root is None else load_manifest(root, minimum_seconds=0.01)

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T].

        Raises:
            DataError: Hardly any recorded response has a reverberation time in the range.
        """
        if draw(0, 1, generator) >= self.probability:
            return audio
        reverberant = convolve(audio, self._response(generator))
        level, before = (float(each.double().square().mean().sqrt()) for each in (reverberant, audio))
        return limit_peak(reverberant * (before / level)) if level else audio

    def _response(self, generator: torch.Generator) -> Tensor:
        if self._manifest is not None:
            return self._recorded(generator)
        rt60_seconds = draw(self.minimum_rt60_seconds, self.maximum_rt60_seconds, generator)
        return synthetic_response(
            rt60_seconds, draw(*_DIRECT_TO_REVERBERANT_DB, generator), self.sample_rate, generator
        )

    def _recorded(self, generator: torch.Generator) -> Tensor:
        """Draws until a response has a reverberation time in the range."""
        assert self._manifest is not None
        entries = self._manifest.entries
        for _ in range(_MAX_ATTEMPTS):
            path = self._manifest.path(entries[int(draw(0, len(entries), generator))])
            try:
                response = read_range(path, self.sample_rate, 1)[0]
            except AudioFileError:
                continue
            response = response[int(response.abs().argmax()) :]  # from the direct path on, so that nothing is delayed
            if self.minimum_rt60_seconds <= reverberation_time(response, self.sample_rate) <= self.maximum_rt60_seconds:
                return response
        raise DataError(
            f"none of {_MAX_ATTEMPTS} impulse responses from {self._manifest.root} has a reverberation time of "
            f"{self.minimum_rt60_seconds:g} to {self.maximum_rt60_seconds:g} s"
        )
