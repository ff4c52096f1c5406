"""Lossy coding, as of recordings that were compressed before."""

import io

import soundfile
import torch
from torch import Tensor

from codec.audio import AudioFile
from data.entries import DataError
from data.sources import limit_peak
from data.transforms.draws import draw

__all__ = ["RandomVorbis"]


class RandomVorbis:
    """Codes some segments with Ogg Vorbis at a random quality and decodes them, but not beyond a peak of 1.

    The result is deterministic for one version of libvorbis, which soundfile brings with it.

    Args:
        sample_rate: Of the segments in Hz.
        minimum_level, maximum_level: Range of the compression level: 0 is the best quality, 1 the smallest file.
        probability: Of coding.

    Raises:
        DataError: A number is out of range.
    """

    def __init__(
        self, sample_rate: int, minimum_level: float = 0.5, maximum_level: float = 1.0, probability: float = 0.2
    ) -> None:
        if not 0 <= minimum_level <= maximum_level <= 1 or not 0 <= probability <= 1:
            raise DataError(
                "expected 0 <= minimum_level <= maximum_level <= 1 and a probability in [0, 1], "
                f"got {minimum_level:g}, {maximum_level:g} and {probability:g}"
            )
        self.sample_rate = sample_rate
        self.minimum_level = minimum_level
        self.maximum_level = maximum_level
        self.probability = probability

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        codes = draw(0, 1, generator) < self.probability
        level = draw(self.minimum_level, self.maximum_level, generator)
        if not codes or not audio.numel():
            return audio
        content = io.BytesIO()
        soundfile.write(
            content, audio.T.numpy(), self.sample_rate, format="OGG", subtype="VORBIS", compression_level=level
        )
        with AudioFile(content, "a coded segment") as file:
            return limit_peak(file.read_frames(0, audio.shape[-1]))
