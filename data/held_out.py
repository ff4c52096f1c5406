"""Clips that training never hears: the same ones at every validation of every run."""

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data.audio import DataError, UnreadableAudio, level_dbfs
from data.manifest import Manifest
from data.segments import SourceReader, generator

__all__ = ["HeldOutClip", "held_out_clips"]

_QUIETEST_DBFS = -45.0  # a fade-in or a pause says little of a codec
_ATTEMPTS = 16


class HeldOutClip(NamedTuple):
    """One clip to evaluate on."""

    name: str  # unique, fit for a file name
    group: str  # the source it stands for: speech, music ...
    audio: Tensor  # [C, T] float32


def held_out_clips(
    manifest: Manifest, sample_rate: int, channels: int, seconds: float, clips_per_source: int, seed: int = 0
) -> list[HeldOutClip]:
    """Cuts clips spread evenly over each source: clip i lies in the i-th part of n equal parts of its duration.

    A place that does not decode or lies below -45 dBFS is replaced by another of the same part; a part without any is
    left out.

    Args:
        manifest: the held-out files.
        sample_rate: Hz of the clips.
        channels: of the clips.
        seconds: length of each clip.
        clips_per_source: how many of each source.
        seed: moves every clip within its part.

    Shape: audio [C, T]

    Raises:
        DataError: nothing usable, or a number makes no sense.
    """
    frames = round(seconds * sample_rate)
    if frames < 1 or clips_per_source < 1 or seed < 0:
        raise DataError(
            f"wanted clips of at least one sample, clips_per_source >= 1 and seed >= 0, got {seconds} s, "
            f"{clips_per_source}, {seed}"
        )
    clips = []
    for source in manifest.sources:
        reader = SourceReader(manifest.of_source(source), sample_rate, channels)
        for number in range(clips_per_source):
            clip = _clip(reader, source, number, clips_per_source, frames, seed)
            if clip is not None:
                clips.append(clip)
    if not clips:
        raise DataError(f"{manifest.root}: every held-out file is below {_QUIETEST_DBFS:g} dBFS or cannot be decoded")
    return clips


def _clip(reader: SourceReader, source: str, number: int, count: int, frames: int, seed: int) -> HeldOutClip | None:
    for attempt in range(_ATTEMPTS):
        place = (number + generator(seed, number, attempt).random()) / count
        try:
            audio = reader.read(place, frames)
        except UnreadableAudio as error:
            found = (error.path, error.reason)
            if found not in reader.manifest.skipped_files:
                reader.manifest.skipped_files.append(found)
            continue
        if level_dbfs(audio) >= _QUIETEST_DBFS:
            stem = Path(reader.file_at(place)).stem
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{source}-{number:02d}-{stem}").strip("-")
            return HeldOutClip(name, source, audio)
    return None
