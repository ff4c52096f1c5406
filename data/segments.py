"""Training segments: of equal length, from files of any length, each a function of the seed and its index alone."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from codec.audio import AudioFileError, readable
from codec.ranges import PositiveFloat, Probability, Weights
from data.bandwidth import bandwidth_weights
from data.entries import DataError
from data.manifest import Manifest
from data.sources import SourceReader, level_dbfs

__all__ = [
    "SILENCE_DBFS",
    "Segment",
    "SegmentDataset",
    "TrainingDataset",
    "checked_weights",
    "numpy_generator",
    "torch_generator",
]

SILENCE_DBFS = -60.0
_MAX_QUIET_ATTEMPTS = 8
_MAX_ATTEMPTS = 100


class Segment(NamedTuple):
    """One training example."""

    audio: Tensor  # [C, T] float32, peak at most 1
    source: str = "audio"
    skipped_files: tuple[str, ...] = ()  # files that did not decode, so that others were drawn


class TrainingDataset(Protocol):
    """What a run trains on: a map from any index >= 0 to a segment, always the same one.

    Because of that, a resumed run, any number of loader workers and several processes see the same sequence. The class
    named by `data.dataset._target_` is called with the keyword arguments of `SegmentDataset`, except `transforms`. It
    may ignore those it does not need.

    Attributes:
        sample_rate: In Hz.
        segment_samples: T, length of every segment.
    """

    sample_rate: int
    segment_samples: int

    def __len__(self) -> int:
        """Number of segments in an epoch. Indices go on beyond it: a finite dataset takes `index % len(self)`."""

    def __getitem__(self, index: int) -> Segment:
        """Shape: audio [C, T]."""


class SegmentDataset:
    """Draws a source by its weight, a file by its duration, and a position in it uniformly.

    A file that does not decode is reported, and another position is drawn. So is a segment below -60 dBFS, up to 8
    times.

    Args:
        manifest: Files to draw from.
        sample_rate: Rate of the segments in Hz.
        channels: Channels of the segments.
        segment_seconds: Length of each segment.
        seed: Any number >= 0.
        source_weights: Relative frequency of each source by name. None weights the sources by duration.
        full_band_hz: Files whose spectrum ends below are drawn less often, see `data.bandwidth`. None treats all alike.
        narrow_band_weight: How often they are drawn, relative to their duration.

    Raises:
        DataError: Sources and weights do not match, or a number is out of range.
    """

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        channels: int,
        segment_seconds: float,
        seed: int = 0,
        source_weights: Weights | None = None,
        full_band_hz: PositiveFloat | None = None,
        narrow_band_weight: Probability = 0.1,
    ) -> None:
        if sample_rate < 1 or channels < 1 or seed < 0:
            raise DataError(f"expected sample_rate and channels >= 1, seed >= 0, got {sample_rate}, {channels}, {seed}")
        self.segment_samples = round(segment_seconds * sample_rate)
        if self.segment_samples < 1:
            raise DataError(f"expected segments of at least one sample, got {segment_seconds} s at {sample_rate} Hz")
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.channels = channels
        self.seed = seed
        weights = checked_weights(manifest, source_weights)
        self.sources = list(weights)
        self._cumulative = np.cumsum(list(weights.values())) / sum(weights.values())
        self._readers: dict[str, SourceReader] = {}
        for name in self.sources:
            files = manifest.of_source(name)
            file_weights = None
            if full_band_hz is not None:
                file_weights = bandwidth_weights(files.entries, full_band_hz, narrow_band_weight)
            self._readers[name] = SourceReader(files, sample_rate, channels, file_weights)

    def __len__(self) -> int:
        """Number of segments that have the duration of the manifest."""
        return max(1, round(self.manifest.seconds * self.sample_rate / self.segment_samples))

    def __getitem__(self, index: int) -> Segment:
        """Shape: audio [C, T].

        Raises:
            DataError: Most of the corpus does not decode.
        """
        return self.draw(index)

    def draw(self, index: int, stream: int = 0) -> Segment:
        """As `self[index]`; each stream of random numbers has segments of its own.

        Shape: audio [C, T].
        """
        return draw_segment(self._read, self.seed, index, stream)

    def _read(self, random: np.random.Generator) -> tuple[Tensor, str]:
        drawn = int(np.searchsorted(self._cumulative, random.random(), side="right"))
        source = self.sources[min(drawn, len(self.sources) - 1)]
        return self._readers[source].read(random.random(), self.segment_samples), source


def draw_segment(
    read: Callable[[np.random.Generator], tuple[Tensor, str]], seed: int, index: int, stream: int = 0
) -> Segment:
    """Reads until a segment decodes and is not silent. Up to 8 segments below -60 dBFS are passed over.

    Args:
        read: Returns the audio [C, T] and the source of a random segment.
        seed, index, stream: As in `numpy_generator`.

    Shape: audio [C, T].

    Raises:
        DataError: None of 100 reads succeeds.
    """
    skipped_files: list[str] = []
    quiet = 0
    for attempt in range(_MAX_ATTEMPTS):
        try:
            audio, source = read(numpy_generator(seed, index, attempt, stream))
        except AudioFileError as error:
            skipped_files.append(error.name)
            last = error
            continue
        silent = level_dbfs(audio) < SILENCE_DBFS
        quiet += silent
        if not silent or quiet > _MAX_QUIET_ATTEMPTS:
            return Segment(audio, source, tuple(dict.fromkeys(skipped_files)))
    raise DataError(
        f"{len(skipped_files)} of {_MAX_ATTEMPTS} reads for segment {index} failed, most of the corpus is corrupt: "
        f"{last}"
    )


def numpy_generator(seed: int, index: int, attempt: int = 0, stream: int = 0) -> np.random.Generator:
    """A generator that depends on its arguments alone.

    It is Philox (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) with the key (seed, index). So
    neither the order of access nor the number of workers can change a segment.
    """
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, index], np.uint64), counter=[0, 0, stream, attempt])
    )


def torch_generator(seed: int, index: int, stream: int) -> torch.Generator:
    """As `numpy_generator`, for functions of torch."""
    return torch.Generator().manual_seed(int(numpy_generator(seed, index, stream=stream).integers(2**63)))


def checked_weights(manifest: Manifest, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Weights above zero by source, in the order of the names. YAML reads a name such as 2020 as a number.

    Args:
        weights: None is the duration of each source.

    Raises:
        DataError: Weights and sources do not match, or a weight is not a finite number >= 0, or all are 0.
    """
    seconds = manifest.sources
    if not seconds:
        raise DataError(f"{readable(manifest.root)}: no files to read segments from")
    if weights is None:
        return seconds
    weights = {str(source): weight for source, weight in weights.items()}
    if set(weights) != set(seconds):
        raise DataError(f"source_weights has {sorted(weights)}, the corpus has the sources {sorted(seconds)}")
    numbers = all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights.values())
    if not numbers or not sum(weights.values()):
        raise DataError(f"expected finite source_weights >= 0, at least one above 0, got {weights}")
    return {source: float(weights[source]) for source in seconds if weights[source] > 0}
