"""Scores and bitrates of a model on held-out audio, at each of its bandwidths, with Opus beside it.

Every clip is written to a file, encoded, decoded and read again. So bitrates are file sizes, and the scores include
rounding to 16 bits. Two bitrates are measured. The payload is what a file of any length needs: the codes and gains of
the model, or the audio packets of Opus. The file also holds headers, checksums and Ogg pages: several hundred bytes,
which matter in clips of a few seconds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from codec.audio import AudioFileError, AudioReader
from codec.bitstream import BitstreamReader
from codec.coding import PreparedCodec, bitrate_kbps, decode_file, encode_file
from codec.evaluation.baselines import code_with_opus, possible_opus_bitrates
from codec.evaluation.codebook_usage import codebook_usage, count_codes
from codec.evaluation.metrics import METRICS, Metric, score_audio, score_codes
from data import scan_folder

__all__ = ["ALL_CLIPS", "OPUS_KBPS", "Evaluation", "Measurement", "Point", "evaluate_folder", "score_clip", "summarize"]

OPUS_KBPS = (6.0, 12.0, 24.0)
ALL_CLIPS = "all"  # the group that holds every clip
_GAIN_BYTES = 4


class Measurement(NamedTuple):
    """One clip, coded at one bandwidth."""

    clip: str  # path below the folder
    group: str  # first-level subfolder of the clip
    coder: str  # "codec" or "opus"
    bandwidth_kbps: float  # target bitrate
    seconds: float
    payload_bytes: int
    file_bytes: int
    scores: dict[str, float]
    code_counts: Tensor | None  # [K, largest codebook size]; None for Opus


class Point(NamedTuple):
    """The clips of a group at one bandwidth: a point of a rate-distortion curve."""

    group: str
    coder: str
    bandwidth_kbps: float
    clips: int
    payload_kbps: float  # total payload over total duration
    file_kbps: float  # total file size over total duration
    scores: dict[str, float]  # means over the clips with a defined score; NaN without any
    undefined: dict[str, int]  # number of clips whose score is undefined, where it is not 0
    perplexity: list[float]  # of each codebook; empty for Opus


class Evaluation(NamedTuple):
    """Result of `evaluate_folder`."""

    measurements: list[Measurement]
    points: list[Point]
    metrics: Mapping[str, Metric]
    notes: list[str]  # what was left out
    skipped_files: list[str]  # files that could not be read, with the reason


class _Clip(NamedTuple):
    name: str
    group: str
    audio: Tensor  # [C, T]


def evaluate_folder(
    prepared: PreparedCodec,
    folder: Path,
    bandwidths_kbps: Sequence[float],
    clips_per_group: int,
    seconds: float,
    metrics: Mapping[str, Metric] = METRICS,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Evaluation:
    """Codes and scores the audio of a folder at each bandwidth, and with Opus at 6, 12 and 24 kbps.

    The first-level subfolders are the groups. Audio directly in the folder is the group `audio`.

    Args:
        prepared: The model.
        folder: Folder of audio, read by `data.scan_folder`.
        bandwidths_kbps: Bandwidths that the model offers.
        clips_per_group: Largest number of files per group, evenly spaced in its sorted list.
        seconds: Longest duration taken from the start of each file.
        metrics: Metrics to compute, from `select_metrics`.
        track: Wraps the files that are iterated over, for a progress bar.

    Raises:
        ValueError: No file could be read, or a number is out of range.
    """
    if clips_per_group < 1 or not 0 < seconds < math.inf:
        raise ValueError(f"expected at least 1 clip and more than 0 s of it, got {clips_per_group} and {seconds:g} s")
    manifest = scan_folder(folder, source_of=_group)
    skipped_files = [f"{folder / path}: {reason}" for path, reason in manifest.skipped_files]
    names, notes = [], []
    for group in manifest.sources:
        found = [entry.path for entry in manifest.entries if entry.source == group]
        count = min(clips_per_group, len(found))
        names += [found[i * len(found) // count] for i in range(count)]
        if count < len(found):
            notes.append(f"{count} of {len(found)} files of {group} were evaluated; --clips N evaluates more")
    config = prepared.codec.config
    opus_kbps, opus_notes = possible_opus_bitrates(OPUS_KBPS, config.channels)
    measurements = []
    for name in track(names):
        try:
            audio = _read_start(folder / name, config.sample_rate, config.channels, seconds)
        except AudioFileError as error:
            skipped_files.append(str(error))
            continue
        clip = _Clip(name, _group(name), audio)
        measurements += _measure_codec(prepared, clip, bandwidths_kbps, metrics)
        measurements += [_measure_opus(clip, config.sample_rate, kbps, metrics) for kbps in opus_kbps]
    if not measurements:
        raise ValueError(f"none of the {len(names)} files of {folder} could be read, for example {skipped_files[-1]}")
    notes += opus_notes + _metric_notes(measurements, metrics)
    points = summarize(measurements, prepared.codec.config.codebook_sizes, metrics)
    return Evaluation(measurements, points, metrics, notes, skipped_files)


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
    """One point per group, coder and bandwidth; with several groups, those of all clips come last."""
    groups = list(dict.fromkeys(measurement.group for measurement in measurements))
    points = []
    for group in groups if len(groups) == 1 else [*groups, ALL_CLIPS]:
        chosen = [m for m in measurements if group in (m.group, ALL_CLIPS)]
        for coder, kbps in dict.fromkeys((m.coder, m.bandwidth_kbps) for m in chosen):
            at_point = [m for m in chosen if (m.coder, m.bandwidth_kbps) == (coder, kbps)]
            points.append(_point(group, at_point, codebook_sizes, metrics))
    return points


def _point(
    group: str, measurements: Sequence[Measurement], codebook_sizes: Sequence[int], metrics: Mapping[str, Metric]
) -> Point:
    seconds = sum(m.seconds for m in measurements)
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
    return Point(
        group,
        measurements[0].coder,
        measurements[0].bandwidth_kbps,
        len(measurements),
        bitrate_kbps(sum(m.payload_bytes for m in measurements), seconds),
        bitrate_kbps(sum(m.file_bytes for m in measurements), seconds),
        {name: scores.get(name, math.nan) for name in metrics},
        {name: len(measurements) - len(value) for name, value in defined.items() if len(value) < len(measurements)},
        perplexity,
    )


def _metric_notes(measurements: Sequence[Measurement], metrics: Mapping[str, Metric]) -> list[str]:
    clips = len({m.clip for m in measurements})
    notes = []
    for name in measurements[0].scores:
        missing = len({m.clip for m in measurements if math.isnan(m.scores[name])})
        if missing:
            notes.append(f"{name} is undefined for {missing} of {clips} clips, which its means leave out")
    speech = [metric.label for metric in metrics.values() if metric.domain == "speech"]
    return notes + ([f"{', '.join(speech)}: meaningful for speech only"] if speech else [])


def _measure_codec(
    prepared: PreparedCodec, clip: _Clip, bandwidths_kbps: Sequence[float], metrics: Mapping[str, Metric]
) -> list[Measurement]:
    sample_rate = prepared.codec.config.sample_rate
    seconds = clip.audio.shape[-1] / sample_rate
    measurements = []
    with TemporaryDirectory() as folder:
        original, encoded, decoded = (Path(folder) / name for name in ("original.wav", "encoded.ecdc", "decoded.wav"))
        soundfile.write(original, clip.audio.T.numpy(), sample_rate, subtype="FLOAT")
        for kbps in bandwidths_kbps:
            file_bytes = encode_file(
                original, encoded, prepared, bandwidth_kbps=kbps, coding="fixed", overwrite=True
            ).encoded_bytes
            decode_file(encoded, decoded, prepared, overwrite=True)
            payload_bytes, codes = _content(encoded)
            counts = count_codes(codes[None], prepared.codec.config.codebook_sizes[: len(codes)])
            audio, _ = soundfile.read(decoded, dtype="float32", always_2d=True)
            scores = score_clip(torch.from_numpy(audio.T.copy()), clip.audio, sample_rate, metrics)
            measurements.append(
                Measurement(clip.name, clip.group, "codec", kbps, seconds, payload_bytes, file_bytes, scores, counts)
            )
    return measurements


def _content(encoded: Path) -> tuple[int, Tensor]:
    """Bytes of codes and gains in a file, and the codes [K, F]."""
    with encoded.open("rb") as file:
        reader = BitstreamReader(file, str(encoded))
        blocks = [torch.from_numpy(block.codes.copy()) for block in reader.blocks()]
    header = reader.header
    side_bytes = _GAIN_BYTES * len(blocks) if header.has_gain else 0
    return sum(header.block_bytes(block.shape[1]) for block in blocks) + side_bytes, torch.cat(blocks, 1)


def _measure_opus(clip: _Clip, sample_rate: int, bandwidth_kbps: float, metrics: Mapping[str, Metric]) -> Measurement:
    result = code_with_opus(clip.audio, sample_rate, bandwidth_kbps)
    return Measurement(
        clip.name,
        clip.group,
        "opus",
        bandwidth_kbps,
        clip.audio.shape[-1] / sample_rate,
        result.payload_bytes,
        result.file_bytes,
        score_clip(result.audio, clip.audio, sample_rate, metrics),
        None,
    )


def _read_start(path: Path, sample_rate: int, channels: int, seconds: float) -> Tensor:
    """The start of a file at the sample rate and with the channels of the model.

    Shape: -> [C, T], 0 < T <= seconds * sample_rate.
    """
    longest = max(1, round(seconds * sample_rate))
    blocks: list[Tensor] = []
    for block in AudioReader(path, sample_rate, channels).blocks():
        blocks.append(block)
        if sum(each.shape[-1] for each in blocks) >= longest:
            break
    audio = torch.cat(blocks, -1)[:, :longest]
    if audio.shape[-1] == 0:
        raise AudioFileError(path, "has no samples")
    return audio


def _group(path: str) -> str:
    parents = Path(path).parts[:-1]
    return parents[0] if parents else "audio"
