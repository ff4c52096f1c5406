"""Held-out clips, which are never trained on: the same ones at every validation of every run."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from codec.audio import AudioFileError, readable
from data.entries import DataError
from data.manifest import Manifest
from data.segments import numpy_generator
from data.sources import SourceReader, level_dbfs

__all__ = ["HeldOutClip", "held_out_clips"]

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 16
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


class _Part(NamedTuple):
    """The loudest clip that was found in a part of a source; None if all are silent or do not decode."""

    clip: HeldOutClip | None
    level_dbfs: float


def held_out_clips(
    manifest: Manifest,
    sample_rate: int,
    channels: int,
    seconds: float,
    clips_per_source: int,
    seed: int = 0,
    minimum_dbfs: float = -45.0,
) -> list[HeldOutClip]:
    """Cuts clips spread evenly over each source: clip i lies in the i-th of n equal parts of the source's duration.

    If a position does not decode or lies below `minimum_dbfs`, another one in the same part is drawn. After 16 attempts
    the part is left out. If a source would have no clip then, the loudest position of each part is used. The log says
    if there are fewer clips, or quiet ones.

    Args:
        manifest: The held-out files. Those that do not decode are added to its skipped files.
        sample_rate: Rate of the clips in Hz.
        channels: Channels of the clips.
        seconds: Length of each clip.
        clips_per_source: Number of clips of each source.
        seed: Determines the position of each clip in its part.
        minimum_dbfs: Wanted level. A fade-in or a pause says little about a codec.

    Shape: audio [C, T] each.

    Raises:
        DataError: No clip can be cut, or a number is out of range.
    """
    samples = round(seconds * sample_rate)
    if samples < 1 or clips_per_source < 1 or seed < 0 or math.isnan(minimum_dbfs):
        raise DataError(
            "expected clips of at least one sample, clips_per_source >= 1, seed >= 0 and a number as minimum_dbfs, "
            f"got {seconds} s, {clips_per_source}, {seed} and {minimum_dbfs}"
        )
    clips: list[HeldOutClip] = []
    notes: list[str] = []
    reasons: Counter[str] = Counter()
    for source in manifest.sources:
        reader = SourceReader(manifest.of_source(source), sample_rate, channels)
        parts = [
            _loudest(reader, source, number, clips_per_source, samples, minimum_dbfs, seed, reasons)
            for number in range(clips_per_source)
        ]
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


def _loudest(
    reader: SourceReader,
    source: str,
    number: int,
    count: int,
    samples: int,
    minimum_dbfs: float,
    seed: int,
    reasons: Counter[str],
) -> _Part:
    """The first clip of a part that is loud enough, or else the loudest. Counts the reasons against others."""
    best = _Part(None, -math.inf)
    for attempt in range(_MAX_ATTEMPTS):
        position = (number + numpy_generator(seed, number, attempt).random()) / count
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
