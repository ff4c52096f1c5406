"""Held-out clips, which are never trained on: the same ones at every validation of every run."""

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from codec.audio import AudioFileError
from data.manifest import DataError, Manifest
from data.segments import numpy_generator
from data.sources import SourceReader, level_dbfs

__all__ = ["HeldOutClip", "held_out_clips"]

_MIN_DBFS = -45.0  # a fade-in or a pause says little about a codec
_MAX_ATTEMPTS = 16


class HeldOutClip(NamedTuple):
    """One clip to evaluate on."""

    name: str  # unique and valid as a file name
    group: str  # its source: speech, music ...
    audio: Tensor  # [C, T] float32


def held_out_clips(
    manifest: Manifest, sample_rate: int, channels: int, seconds: float, clips_per_source: int, seed: int = 0
) -> list[HeldOutClip]:
    """Cuts clips spread evenly over each source: clip i lies in the i-th of n equal parts of the source's duration.

    If a position does not decode or lies below -45 dBFS, another one in the same part is drawn. After 16 attempts the
    part is left out.

    Args:
        manifest: The held-out files. Those that do not decode are added to its skipped files.
        sample_rate: Rate of the clips in Hz.
        channels: Channels of the clips.
        seconds: Length of each clip.
        clips_per_source: Number of clips of each source.
        seed: Determines the position of each clip in its part.

    Shape: audio [C, T] each.

    Raises:
        DataError: No clip can be cut, or a number is out of range.
    """
    samples = round(seconds * sample_rate)
    if samples < 1 or clips_per_source < 1 or seed < 0:
        raise DataError(
            f"expected clips of at least one sample, clips_per_source >= 1 and seed >= 0, got {seconds} s, "
            f"{clips_per_source}, {seed}"
        )
    clips = []
    for source in manifest.sources:
        reader = SourceReader(manifest.of_source(source), sample_rate, channels)
        for number in range(clips_per_source):
            clip = _clip(reader, source, number, clips_per_source, samples, seed)
            if clip is not None:
                clips.append(clip)
    if not clips:
        raise DataError(f"{manifest.root}: every held-out file is below {_MIN_DBFS:g} dBFS or cannot be decoded")
    return clips


def _clip(reader: SourceReader, source: str, number: int, count: int, samples: int, seed: int) -> HeldOutClip | None:
    for attempt in range(_MAX_ATTEMPTS):
        position = (number + numpy_generator(seed, number, attempt).random()) / count
        try:
            audio = reader.read(position, samples)
        except AudioFileError as error:
            skipped = (error.name, error.reason)
            if skipped not in reader.manifest.skipped_files:
                reader.manifest.skipped_files.append(skipped)
            continue
        if level_dbfs(audio) >= _MIN_DBFS:
            stem = Path(reader.file_at(position)).stem
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{source}-{number:02d}-{stem}").strip("-")
            return HeldOutClip(name, source, audio)
    return None
