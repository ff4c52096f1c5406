"""Held-out clips, which are never trained on: the same ones at every validation of every run."""

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from codec.audio import AudioFileError, readable, resampled_length
from codec.ranges import Count, Decibels, Seconds
from data.entries import DataError, Entry
from data.manifest import Manifest
from data.segments import numpy_generator
from data.sources import SourceReader, level_dbfs

__all__ = ["HeldOutClip", "held_out_clips"]

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 16
_SENTENCE_SECONDS = 2.0
_CANCELLED_DB = 20.0
_MAX_NAME = 60  # characters of a clip's name, to which others add a step and a suffix
_UNDECODABLE = "cannot be decoded"
_SILENT = "is silent"
_CANCELLED = "is lost in the mono mix, because its channels cancel each other (R = -L)"


class HeldOutClip(NamedTuple):
    """One clip to evaluate on."""

    name: str  # unique and valid as a file name
    group: str  # its source: speech, music ...
    audio: Tensor  # [C, T] float32


class _Place(NamedTuple):
    """Where a clip may be read."""

    reader: SourceReader
    position: float
    samples: int


class _Part(NamedTuple):
    """The loudest clip that was found in a part of a source; None if all are silent or do not decode."""

    clip: HeldOutClip | None
    level_dbfs: float


def held_out_clips(
    manifest: Manifest,
    sample_rate: int,
    channels: int,
    seconds: Seconds | Mapping[str, Seconds | None] | None,
    clips_per_source: Count,
    seed: int = 0,
    minimum_dbfs: Decibels = -45.0,
    max_seconds: Seconds = 12.0,
) -> list[HeldOutClip]:
    """Cuts clips of one length from each source, or takes whole files.

    Clips of one length are spread evenly: clip i lies in the i-th of n equal parts of the source's duration. Whole
    files, such as sentences, are spread over the speakers: the key `speaker` of a manifest, or else the folders. Files
    of 2 s to `max_seconds` are preferred, a longer file is cut.

    If a clip does not decode or lies below `minimum_dbfs`, another one in the same part is tried. After 16 attempts the
    part is left out. If a source would have no clip then, the loudest one of each part is used. The log says if there
    are fewer clips, or quiet ones.

    Args:
        manifest: The held-out files. Those that do not decode are added to its skipped files.
        sample_rate: Rate of the clips in Hz.
        channels: Channels of the clips.
        seconds: Length of each clip, or a length for each source by name; None takes whole files.
        clips_per_source: Number of clips of each source. Fewer, if whole files are taken and there are fewer.
        seed: Determines the position of each clip in its part.
        minimum_dbfs: Wanted level. A fade-in or a pause says little about a codec.
        max_seconds: Longest clip where whole files are taken.

    Shape: audio [C, T] each.

    Raises:
        DataError: No clip can be cut, a source has no length, or a number is out of range.
    """
    lengths = _lengths(manifest.sources, seconds, max_seconds)
    samples = {name: None if length is None else round(length * sample_rate) for name, length in lengths.items()}
    longest = round(max_seconds * sample_rate)
    if min([longest, *(count for count in samples.values() if count is not None)]) < 1:
        raise DataError(f"expected clips of at least one sample, got {seconds} s")
    if clips_per_source < 1 or seed < 0 or math.isnan(minimum_dbfs):
        raise DataError(
            "expected clips_per_source >= 1, seed >= 0 and a number as minimum_dbfs, "
            f"got {clips_per_source}, {seed} and {minimum_dbfs}"
        )
    clips: list[HeldOutClip] = []
    notes: list[str] = []
    reasons: Counter[str] = Counter()
    for source, length in samples.items():
        reader = SourceReader(manifest.of_source(source), sample_rate, channels)
        if length is None:
            candidates = _whole_files(reader, clips_per_source, longest)
        else:
            candidates = _cuts(reader, clips_per_source, length, seed)
        parts = [_loudest(each, source, number, minimum_dbfs, reasons) for number, each in enumerate(candidates)]
        chosen, note = _choose(parts, source, minimum_dbfs, reasons)
        clips += chosen
        notes += [] if note is None else [note]
    if not clips:
        found = " or ".join(reasons)
        raise DataError(
            f"{readable(manifest.root)}: every position that was tried in the held-out files {found}: hold out others"
        )
    for note in notes:
        log.warning(note)
    return _with_unique_names(clips)


def _lengths(
    sources: Iterable[str], seconds: float | Mapping[str, float | None] | None, max_seconds: float
) -> dict[str, float | None]:
    """The length of the clips of each source in s; None for whole files."""
    if isinstance(seconds, Mapping):
        named = {
            str(source): length for source, length in seconds.items()
        }  # YAML reads a name such as 2020 as a number
        lengths = {source: named.get(source, math.nan) for source in sources}
    else:
        lengths = dict.fromkeys(sources, seconds)
    for source, length in lengths.items():
        if length is not None and math.isnan(length):
            raise DataError(f"data.held_out.seconds has no length for the source {source}: add {source}: 3.0, or null")
    if not all(0 < length < math.inf for length in (max_seconds, *lengths.values()) if length is not None):
        raise DataError(f"expected clips of more than 0 s, got seconds={seconds} and max_seconds={max_seconds}")
    return lengths


def _cuts(reader: SourceReader, count: int, samples: int, seed: int) -> list[Iterable[_Place]]:
    """For each of `count` equal parts of a source, positions in it."""
    return [
        [
            _Place(reader, (number + numpy_generator(seed, number, attempt).random()) / count, samples)
            for attempt in range(_MAX_ATTEMPTS)
        ]
        for number in range(count)
    ]


def _whole_files(reader: SourceReader, count: int, longest: int) -> list[Iterable[_Place]]:
    """For each of at most `count` parts of a source, files in it. A part belongs to one speaker."""
    speakers: dict[str, list[Entry]] = {}
    for entry in reader.manifest.entries:
        speaker = (entry.further or {}).get("speaker", os.path.dirname(entry.path))
        speakers.setdefault(str(speaker), []).append(entry)
    names = sorted(speakers)
    chosen = [names[i * len(names) // count] for i in range(count)] if count < len(names) else names
    parts = dict.fromkeys(chosen, 0)  # number of parts of each speaker
    for _ in range(min(count, sum(len(speakers[name]) for name in chosen))):
        free = [name for name in chosen if parts[name] < len(speakers[name])]
        parts[min(free, key=lambda name: parts[name])] += 1

    def place(entry: Entry) -> _Place:
        own = SourceReader(replace(reader.manifest, entries=[entry]), reader.sample_rate, reader.channels)
        return _Place(own, 0.0, min(longest, resampled_length(entry.frames, entry.sample_rate, reader.sample_rate)))

    def suits(entry: Entry) -> bool:
        return _SENTENCE_SECONDS <= entry.seconds <= longest / reader.sample_rate

    candidates: list[Iterable[_Place]] = []
    for name, number in parts.items():
        files = speakers[name]
        for part in range(number):
            own = files[part * len(files) // number : (part + 1) * len(files) // number]
            ranked = sorted(own, key=lambda entry: (not suits(entry), entry.seconds < _SENTENCE_SECONDS))
            candidates.append(map(place, ranked[:_MAX_ATTEMPTS]))
    return candidates


def _loudest(
    candidates: Iterable[_Place], source: str, number: int, minimum_dbfs: float, reasons: Counter[str]
) -> _Part:
    """The first clip of a part that is loud enough, or else the loudest. Counts the reasons against others."""
    best = _Part(None, -math.inf)
    for reader, position, samples in candidates:
        try:
            audio = reader.read(position, samples)
        except AudioFileError as error:
            skipped = (error.name, error.reason)
            if skipped not in reader.manifest.skipped_files:
                reader.manifest.skipped_files.append(skipped)
            reasons[_UNDECODABLE] += 1
            continue
        level = level_dbfs(audio)
        if level < minimum_dbfs and (reason := _why_unusable(reader, position, samples, level)):
            reasons[reason] += 1
            continue
        if level > best.level_dbfs:
            stem = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{source}-{number:02d}-{Path(reader.file_at(position)).stem}")
            best = _Part(HeldOutClip(stem[:_MAX_NAME].strip("-"), source, audio), level)
        if level >= minimum_dbfs:
            break
    return best


def _why_unusable(reader: SourceReader, position: float, samples: int, level: float) -> str | None:
    """Why a quiet position is no clip, or None. The channels cancel if two of them are far louder than their mix."""
    if reader.channels == 1:
        stereo = SourceReader(reader.manifest, reader.sample_rate, 2).read(position, samples)
        if level_dbfs(stereo) > level + _CANCELLED_DB:
            return _CANCELLED
    return _SILENT if level == -math.inf else None


def _choose(
    parts: list[_Part], source: str, minimum_dbfs: float, reasons: Iterable[str]
) -> tuple[list[HeldOutClip], str | None]:
    """The clips of a source that are loud enough, or else the quiet ones; and a note if that is not all."""
    loud = [part.clip for part in parts if part.clip is not None and part.level_dbfs >= minimum_dbfs]
    quiet = [part.clip for part in parts if part.clip is not None]
    limit = f"data.held_out.minimum_dbfs={minimum_dbfs:g}"
    if len(loud) == len(parts):
        return loud, None
    if loud:
        return loud, f"{source}: {len(loud)} of {len(parts)} held-out clips, the others are below {limit} or unusable"
    if quiet:
        level = max(part.level_dbfs for part in parts)
        return quiet, f"{source}: its held-out clips are quiet, at most {level:.0f} dBFS, which is below {limit}"
    return [], f"{source}: no held-out clip, every position that was tried {' or '.join(reasons)}"


def _with_unique_names(clips: list[HeldOutClip]) -> list[HeldOutClip]:
    """Sources in other scripts than the Latin one can have the same name in ASCII."""
    used: set[str] = set()
    unique = []
    for clip in clips:
        name = next(n for n in (clip.name, *(f"{clip.name}-{i}" for i in range(2, 2 + len(clips)))) if n not in used)
        used.add(name)
        unique.append(clip._replace(name=name))
    return unique
