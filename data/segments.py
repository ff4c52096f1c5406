"""Pieces of equal length out of files of any length: segment `index` is a function of the seed and the index alone."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.audio import (
    DataError,
    UnreadableAudio,
    level_dbfs,
    limit_peak,
    read_resampled,
    resampled_frames,
)
from data.manifest import Manifest

__all__ = ["Segment", "SegmentDataset", "SourceReader", "generator"]

_SILENCE_DBFS = -60.0
_QUIET_ATTEMPTS = 8
_ATTEMPTS = 100
_MOST_PIECES = 64
_FADE_SECONDS = 0.005


class Segment(NamedTuple):
    """One training example."""

    audio: Tensor  # [C, T] float32, peak at most 1
    source: str
    skipped_files: tuple[str, ...]  # files that did not decode on the way to this one


class SourceReader:
    """The files of one source laid end to end in the manifest's order: a place on it is a number in [0, 1).

    A uniform place hits a file in proportion to its duration. A file at least as long as the segment gives all of it. A
    shorter one (a word, a drum hit) is followed by its neighbours in the manifest, each with the pauses it was recorded
    with, and with fades of 5 ms at the joins: no padding with zeros, which would become half of what a codec learns.

    Args:
        manifest: entries of one source.
        sample_rate: Hz of what is read.
        channels: of what is read.
    """

    def __init__(self, manifest: Manifest, sample_rate: int, channels: int) -> None:
        if not manifest.entries:
            raise DataError(f"{manifest.root}: no files to read segments from")
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.channels = channels
        self.lengths = np.array(
            [resampled_frames(entry.frames, entry.sample_rate, sample_rate) for entry in manifest.entries]
        )
        self.ends = np.cumsum(self.lengths)

    def file_at(self, place: float) -> str:
        """Path of the file that lies at `place`."""
        return self.manifest.path(self.manifest.entries[self._locate(place)[0]])

    def read(self, place: float, frames: int) -> Tensor:
        """Cuts a segment at a place.

        Shape: -> [channels, frames]

        Raises:
            UnreadableAudio: a file on the way cannot be decoded.
        """
        file, inside = self._locate(place)
        length = int(self.lengths[file])
        if length >= frames:
            return self._piece(file, int(inside * (length - frames + 1)), frames)
        return self._join(file, int(inside * length), frames)

    def _locate(self, place: float) -> tuple[int, float]:
        """The file at a place, and where in that file: a number in [0, 1)."""
        position = place * float(self.ends[-1])
        file = min(int(np.searchsorted(self.ends, position, side="right")), len(self.ends) - 1)
        length = float(self.lengths[file])
        return file, min(max((position - (float(self.ends[file]) - length)) / length, 0.0), 1.0 - 2**-40)

    def _piece(self, file: int, start: int, frames: int) -> Tensor:
        path = self.manifest.path(self.manifest.entries[file])
        audio = read_resampled(path, self.sample_rate, start, frames, self.channels)
        if audio.shape[-1] < min(frames, int(self.lengths[file]) - start):
            raise UnreadableAudio(path, "is shorter than the manifest says")
        return limit_peak(audio)

    def _join(self, file: int, start: int, frames: int) -> Tensor:
        pieces: list[Tensor] = []
        missing = frames
        for step in range(_MOST_PIECES):
            index = (file + step) % len(self.lengths)
            piece = self._piece(index, start, min(missing, int(self.lengths[index]) - start))
            missing -= piece.shape[-1]
            self._fade(piece, fade_in=step > 0, fade_out=missing > 0)
            pieces.append(piece)
            start = 0
            if not missing:
                break
        audio = torch.cat(pieces, dim=-1)
        # Only files of a few samples leave something missing after so many pieces: go round what there is.
        return audio.repeat(1, math.ceil(frames / audio.shape[-1]))[:, :frames]

    def _fade(self, piece: Tensor, fade_in: bool, fade_out: bool) -> None:
        length = min(round(_FADE_SECONDS * self.sample_rate), piece.shape[-1])
        ramp = torch.arange(length) / max(length, 1)
        if fade_in:
            piece[:, :length] *= ramp
        if fade_out:
            piece[:, piece.shape[-1] - length :] *= ramp.flip(0)


class SegmentDataset:
    """`dataset[index]` for any index >= 0: a source by its weight, a file by its duration, a position uniformly.

    Randomness is Philox (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) with key (seed, index)
    and the attempt as counter, so no order of access, worker count or resume can change a segment. A file that does not
    decode is reported and another place is drawn; a segment below -60 dBFS is drawn again up to 8 times, then accepted.

    Args:
        manifest: files to draw from.
        sample_rate: Hz of the segments.
        channels: of the segments.
        segment_seconds: length of each.
        seed: any number >= 0.
        source_weights: share of the draws by source name, in any scale; None for the natural share, by duration.

    Raises:
        DataError: sources and weights do not match, or a value makes no sense.
    """

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        channels: int,
        segment_seconds: float,
        seed: int = 0,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        if sample_rate < 1 or channels < 1 or seed < 0:
            raise DataError(f"wanted sample_rate and channels >= 1, seed >= 0, got {sample_rate}, {channels}, {seed}")
        self.frames = round(segment_seconds * sample_rate)
        if self.frames < 1:
            raise DataError(f"wanted segments of at least one sample, got {segment_seconds} s at {sample_rate} Hz")
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.channels = channels
        self.segment_seconds = segment_seconds
        self.seed = seed
        weights = _checked_weights(manifest, source_weights)
        self.sources = list(weights)
        self._cumulative = np.cumsum(list(weights.values())) / sum(weights.values())
        self._readers = {
            source: SourceReader(manifest.of_source(source), sample_rate, channels) for source in self.sources
        }

    @property
    def segments_per_epoch(self) -> int:
        """Segments that hold as much audio as the manifest."""
        return max(1, round(self.manifest.seconds / self.segment_seconds))

    def __getitem__(self, index: int) -> Segment:
        """Shape: audio [C, T]"""
        skipped_files: list[str] = []
        quiet = 0
        for attempt in range(_ATTEMPTS):
            random = generator(self.seed, index, attempt)
            drawn = int(np.searchsorted(self._cumulative, random.random(), side="right"))
            source = self.sources[min(drawn, len(self.sources) - 1)]
            try:
                audio = self._readers[source].read(random.random(), self.frames)
            except UnreadableAudio as error:
                skipped_files.append(error.path)
                last = error
                continue
            silent = level_dbfs(audio) < _SILENCE_DBFS
            quiet += silent
            if not silent or quiet > _QUIET_ATTEMPTS:
                return Segment(audio, source, tuple(dict.fromkeys(skipped_files)))
        raise DataError(
            f"{len(skipped_files)} of {_ATTEMPTS} reads for segment {index} failed, most of the corpus is damaged: "
            f"{last}"
        )


def generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64), counter=[0, 0, 0, attempt]))


def _checked_weights(manifest: Manifest, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Weights above zero by source, in the order of the names."""
    seconds = manifest.sources
    if not seconds:
        raise DataError(f"{manifest.root}: no files to read segments from")
    if weights is None:
        return seconds
    if set(weights) != set(seconds):
        raise DataError(f"source weights are for {sorted(weights)}, the corpus has sources {sorted(seconds)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not sum(weights.values()):
        raise DataError(f"wanted finite source weights >= 0, one above 0, got {dict(weights)}")
    return {source: float(weights[source]) for source in seconds if weights[source] > 0}
