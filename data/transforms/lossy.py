"""Lossy coding, as of recordings that were compressed before."""

import io
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import soundfile
import torch
from annotated_types import MinLen
from torch import Tensor

from codec.audio import AudioFile
from codec.ranges import Probability, SampleRate, check_ranges
from data.entries import DataError
from data.sources import limit_peak
from data.transforms.draws import draw

__all__ = ["RandomLossyCoding"]

LossyCodec = Literal["vorbis", "mp3", "opus"]

_FORMATS = {"vorbis": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}
_MP3_RATES = {n * factor for n in (8000, 11025, 12000) for factor in (1, 2, 4)}
_RATES = {"mp3": _MP3_RATES, "opus": {8000, 12000, 16000, 24000, 48000}}  # in Hz; Vorbis has any
_HIGHEST_LEVEL = 0.99  # LAME refuses 1


class RandomLossyCoding:
    """Codes some segments with a random codec at a random quality and decodes them, but not beyond a peak of 1.

    Bitrates depend on codec, level and signal. From level 0.5 to level 1, a sentence at 24 kHz has 75 to 45 kbit/s with
    Vorbis, 59 to 28 with MP3 and 137 to 11 with Opus. The result is deterministic for one version of libsndfile.

    Args:
        sample_rate: Of the segments in Hz.
        codecs: Of vorbis, mp3 and opus; each is as likely.
        minimum_level, maximum_level: Range of the compression level: 0 is the best quality, 1 the smallest file.
        probability: Of coding.

    Raises:
        ValueError: A value is out of range, or a codec does not have the sampling rate.
    """

    def __init__(
        self,
        sample_rate: SampleRate,
        codecs: Annotated[Sequence[LossyCodec], MinLen(1)] = get_args(LossyCodec),
        minimum_level: Probability = 0.5,
        maximum_level: Probability = 1.0,
        probability: Probability = 0.2,
    ) -> None:
        check_ranges(RandomLossyCoding.__init__, locals())
        if not minimum_level <= maximum_level:
            raise DataError(f"expected minimum_level <= maximum_level, got {minimum_level:g} and {maximum_level:g}")
        for codec in codecs:
            rates = _RATES.get(codec, {sample_rate})
            if sample_rate not in rates:
                raise DataError(f"{codec} has the sampling rates {sorted(rates)} Hz, got {sample_rate}: leave it out")
        self.sample_rate = sample_rate
        self.codecs = list(codecs)
        self.minimum_level = minimum_level
        self.maximum_level = maximum_level
        self.probability = probability

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        codes = draw(0, 1, generator) < self.probability
        level = draw(self.minimum_level, self.maximum_level, generator)
        position = draw(0, len(self.codecs), generator)
        if not codes or not audio.numel():
            return audio
        container, subtype = _FORMATS[self.codecs[min(int(position), len(self.codecs) - 1)]]
        level = min(level, _HIGHEST_LEVEL)
        content = io.BytesIO()
        soundfile.write(
            content, audio.T.numpy(), self.sample_rate, format=container, subtype=subtype, compression_level=level
        )
        with AudioFile(content, "a coded segment") as file:
            return limit_peak(file.read_frames(0, audio.shape[-1]))
