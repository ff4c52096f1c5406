"""Scores and bitrates of codecs on held-out audio: a model at each of its bandwidths, Opus, and others.

Every clip is coded through files. So bitrates are file sizes, and scores include rounding to 16 bits. Two bitrates are
measured. The payload is what a file of any length needs: codes and gains of the model, or the audio packets of Opus.
The file also holds headers, checksums and Ogg pages: several hundred bytes, which matter in clips of a few seconds.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from codec.audio import AudioFileError, AudioReader, readable
from codec.coding import bitrate_kbps
from codec.config import CodecConfig
from codec.evaluation.codebook_usage import codebook_usage
from codec.evaluation.coders import Coder
from codec.evaluation.groups import select_speech_groups
from codec.evaluation.metrics import METRICS, Metric, score_audio, score_codes
from data import scan_folder

__all__ = ["Evaluation", "Measurement", "Point", "evaluate_folder", "score_clip", "summarize"]


class Measurement(NamedTuple):
    """One clip, coded by one coder."""

    clip: str  # path below the folder; bytes that are no text are escaped
    group: str  # first-level subfolder of the clip
    coder: str
    bandwidth_kbps: float | None  # target bitrate
    seconds: float
    payload_bytes: int | None
    file_bytes: int | None
    scores: dict[str, float]  # metrics of speech only for speech
    code_counts: Tensor | None  # [K, largest codebook size]; None for other codecs
    audio: Tensor | None = None  # [C, T], of the clips to listen to


class Point(NamedTuple):
    """The clips of a group, coded by one coder: a point of a rate-distortion curve."""

    group: str
    coder: str
    bandwidth_kbps: float | None
    clips: int
    payload_kbps: float  # total payload over total duration; NaN if unknown
    file_kbps: float  # total file size over total duration; NaN if unknown
    scores: dict[str, float]  # means over the clips with a defined score; NaN without any
    intervals: dict[str, float]  # half of the 95 % confidence interval of each mean (Student's t); NaN below 2 clips
    undefined: dict[str, int]  # number of clips whose score is undefined, where it is not 0
    perplexity: list[float]  # of each codebook; empty for other codecs


class Evaluation(NamedTuple):
    """Result of `evaluate_folder`."""

    measurements: list[Measurement]
    points: list[Point]
    metrics: Mapping[str, Metric]
    notes: list[str]  # what was left out
    skipped_files: list[str]  # files that could not be read, with the reason


def evaluate_folder(
    folder: Path,
    coders: Sequence[Coder],
    config: CodecConfig,
    clips_per_group: int,
    seconds: float,
    metrics: Mapping[str, Metric] = METRICS,
    speech_groups: Collection[str] | None = None,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
    kept_clips: int = 2,
) -> Evaluation:
    """Codes and scores the audio of a folder with each coder.

    The first-level subfolders are the groups. Audio directly in the folder is the group `audio`.

    Args:
        folder: Folder of audio, read by `data.scan_folder`.
        coders: From `codec.evaluation.coders`.
        config: Of the model: sampling rate, channels, codebook sizes.
        clips_per_group: Largest number of files per group, evenly spaced in its sorted list.
        seconds: Longest duration taken from the start of each file.
        metrics: Metrics to compute, from `select_metrics`.
        speech_groups: Groups that metrics of speech are computed for. None for the groups with `speech` in their name,
            or for all groups if there is none.
        track: Wraps the files that are iterated over, for a progress bar.
        kept_clips: Number of clips per group whose decoded audio is kept.

    Raises:
        ValueError: No file could be read, a speech group does not exist, a command failed, or a number is out of range.
    """
    if clips_per_group < 1 or not 0 < seconds < math.inf:
        raise ValueError(f"expected at least 1 clip and more than 0 s of it, got {clips_per_group} and {seconds:g} s")
    manifest = scan_folder(folder, source_of=_group)
    speech, notes = _speech_groups(manifest.sources, speech_groups, metrics)
    skipped_files = [f"{folder / path}: {reason}" for path, reason in manifest.skipped_files]
    names = []
    for group in manifest.sources:
        found = [entry.path for entry in manifest.entries if entry.source == group]
        count = min(clips_per_group, len(found))
        names += [found[i * len(found) // count] for i in range(count)]
        if count < len(found):
            notes.append(f"{count} of {len(found)} files of {group} were evaluated; --clips N evaluates more")
    measurements: list[Measurement] = []
    kept: Counter[str] = Counter()
    for name in track(names):
        try:
            audio, audio_notes = _read_start(folder / name, config.sample_rate, config.channels, seconds)
        except AudioFileError as error:
            skipped_files.append(str(error))
            continue
        notes += [f"{readable(name)}: {note}" for note in audio_notes]
        applied = {key: m for key, m in metrics.items() if m.domain != "speech" or _group(name) in speech}
        keep = kept[_group(name)] < kept_clips
        kept[_group(name)] += keep
        measurements += [_measure(name, audio, config.sample_rate, coder, applied, keep) for coder in coders]
    if not measurements:
        raise ValueError(f"none of the {len(names)} files of {folder} could be read, for example {skipped_files[-1]}")
    notes += _undefined_notes(measurements)
    points = summarize(measurements, config.codebook_sizes, metrics)
    return Evaluation(measurements, points, metrics, notes, skipped_files)


def _measure(
    name: str, audio: Tensor, sample_rate: int, coder: Coder, metrics: Mapping[str, Metric], keep: bool
) -> Measurement:
    """Shape: audio [C, T]."""
    coded = coder.code(audio)
    return Measurement(
        readable(name),
        _group(name),
        coder.name,
        coder.bandwidth_kbps,
        audio.shape[-1] / sample_rate,
        coded.payload_bytes,
        coded.file_bytes,
        score_clip(coded.audio, audio, sample_rate, metrics),
        coded.code_counts,
        coded.audio if keep else None,
    )


def _speech_groups(
    groups: Iterable[str], chosen: Collection[str] | None, metrics: Mapping[str, Metric]
) -> tuple[Collection[str], list[str]]:
    """The groups that metrics of speech apply to, and a note where that is a guess."""
    groups = list(groups)
    speech = select_speech_groups(groups, chosen)
    labels = ", ".join(metric.label for metric in metrics.values() if metric.domain == "speech")
    guessed = chosen is None and labels and not any("speech" in group.lower() for group in groups)
    return speech, [f"{labels}: meaningful for speech only; --speech-groups names the groups"] if guessed else []


def score_clip(
    estimate: Tensor, reference: Tensor, sample_rate: int, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Scores of one clip by name; NaN where a metric is undefined.

    Shape: estimate [C, T], reference [C, T].
    """
    scores = score_audio(estimate[None], reference[None], sample_rate, metrics)
    return {name: float(values) for name, values in scores.items()}


def summarize(
    measurements: Sequence[Measurement], codebook_sizes: Sequence[int], metrics: Mapping[str, Metric] = METRICS
) -> list[Point]:
    """One point per group and coder. Groups are never averaged: a mean over speech and music hides both."""
    keys = dict.fromkeys((m.group, m.coder, m.bandwidth_kbps) for m in measurements)
    groups = list(dict.fromkeys(m.group for m in measurements))
    return [
        _point([m for m in measurements if (m.group, m.coder, m.bandwidth_kbps) == key], codebook_sizes, metrics)
        for key in sorted(keys, key=lambda key: groups.index(key[0]))
    ]


def _point(measurements: Sequence[Measurement], codebook_sizes: Sequence[int], metrics: Mapping[str, Metric]) -> Point:
    values = {name: np.array([m.scores[name] for m in measurements]) for name in measurements[0].scores}
    defined = {name: value[np.isfinite(value)] for name, value in values.items()}
    scores = {name: float(value.mean()) if len(value) else math.nan for name, value in defined.items()}
    counts = [m.code_counts for m in measurements if m.code_counts is not None]
    perplexity = []
    if counts:
        total = torch.stack(counts).sum(0)
        sizes = codebook_sizes[: len(total)]
        perplexity = codebook_usage(total, sizes).perplexity.tolist()
        scores |= score_codes(total, sizes, metrics)
    first = measurements[0]
    seconds = [m.seconds for m in measurements]
    return Point(
        first.group,
        first.coder,
        first.bandwidth_kbps,
        len(measurements),
        _kbps([m.payload_bytes for m in measurements], seconds),
        _kbps([m.file_bytes for m in measurements], seconds),
        {name: scores.get(name, math.nan) for name in metrics},
        {name: _half_interval(value) for name, value in defined.items()},
        {name: len(measurements) - len(value) for name, value in defined.items() if len(value) < len(measurements)},
        perplexity,
    )


def _kbps(sizes: Sequence[int | None], seconds: Sequence[float]) -> float:
    known = [size for size in sizes if size is not None]
    return bitrate_kbps(sum(known), sum(seconds)) if len(known) == len(sizes) else math.nan


def _half_interval(values: np.ndarray) -> float:
    count = len(values)
    return float(stdtrit(count - 1, 0.975) * values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan


def _undefined_notes(measurements: Sequence[Measurement]) -> list[str]:
    notes = []
    for name in dict.fromkeys(name for m in measurements for name in m.scores):
        scored = [m for m in measurements if name in m.scores]
        missing = len({m.clip for m in scored if math.isnan(m.scores[name])})
        if missing:
            clips = len({m.clip for m in scored})
            notes.append(f"{name} is undefined for {missing} of {clips} clips, which its means leave out")
    return notes


def _read_start(path: Path, sample_rate: int, channels: int, seconds: float) -> tuple[Tensor, list[str]]:
    """The start of a file at the sample rate and with the channels of the model, and notes on it.

    Shape: -> [C, T], 0 < T <= seconds * sample_rate.
    """
    reader = AudioReader(path, sample_rate, channels)
    longest = max(1, round(seconds * sample_rate))
    blocks: list[Tensor] = []
    for block in reader.blocks():
        blocks.append(block)
        if sum(each.shape[-1] for each in blocks) >= longest:
            break
    audio = torch.cat(blocks, -1)[:, :longest]
    if audio.shape[-1] == 0:
        raise AudioFileError(path, "has no samples")
    return audio, reader.notes


def _group(path: str) -> str:
    parents = Path(path).parts[:-1]
    return readable(parents[0]) if parents else "audio"
