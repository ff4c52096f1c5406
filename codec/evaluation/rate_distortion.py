"""What a model makes of held-out audio at each of its bandwidths, and what Opus does beside it.

Everything goes through files, as a user's audio does: a clip is written, encoded, decoded and read again, so bitrates
are sizes of files and 16-bit rounding is in the scores. Two bitrates are given. That of the *payload* is what is left
of a file of any length: the codes (and scales) of ours, the audio packets of Opus. That of the *file* also counts
headers, checksums and Ogg pages, several hundred bytes, which weigh much on a clip of seconds.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from codec.audio.reader import AudioFileError, AudioReader
from codec.bitstream.reader import BitstreamReader
from codec.coding.file_codec import FileCodec, bitrate_kbps
from codec.evaluation.baselines import code_with_opus, opus_bandwidths
from codec.evaluation.codebook_usage import bitrate_efficiency, codebook_usage, count_codes
from codec.evaluation.metrics import score_audio
from data import scan_folder

__all__ = ["EVERYTHING", "OPUS_KBPS", "Evaluation", "Measurement", "Point", "evaluate_folder", "score", "summarise"]

OPUS_KBPS = (6.0, 12.0, 24.0)
EVERYTHING = "all"  # the group that holds every clip
_SCALE_BYTES = 4


class Measurement(NamedTuple):
    """One clip, coded once."""

    clip: str  # path below the folder
    group: str  # the folder's subfolder that holds it
    coder: str  # codec or opus
    bandwidth_kbps: float  # asked for
    seconds: float
    payload_bytes: int
    file_bytes: int
    scores: dict[str, float]
    code_counts: Tensor | None  # [K, codebook_size] of the codec


class Point(NamedTuple):
    """The clips of a group at one bandwidth."""

    group: str
    coder: str
    bandwidth_kbps: float
    clips: int
    payload_kbps: float  # of all clips together, as the next
    file_kbps: float
    scores: dict[str, float]  # means over the clips for which a score is defined
    undefined: dict[str, int]  # for how many it is not, where there are any
    perplexity: list[float]  # of each codebook; none for Opus
    bitrate_efficiency: float  # NaN for Opus


class Evaluation(NamedTuple):
    """All of it."""

    measurements: list[Measurement]
    points: list[Point]
    notes: list[str]  # what was left out
    set_aside: list[str]  # files that could not be used, with the reason


class _Clip(NamedTuple):
    name: str
    group: str
    audio: Tensor  # [C, T]


def evaluate_folder(
    coder: FileCodec,
    folder: Path,
    bandwidths_kbps: Sequence[float],
    clips_per_group: int,
    seconds: float,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Evaluation:
    """Codes and scores the audio of a folder at each bandwidth, and with Opus at 6, 12 and 24 kbps.

    The first-level subfolders are the groups; audio directly in the folder is the group `audio`.

    Args:
        coder: The model.
        folder: Of audio, as `data.scan_folder` reads it.
        bandwidths_kbps: Offered by the model.
        clips_per_group: So many files of each group at most, evenly spread over its sorted list.
        seconds: So much of the start of each file at most.
        track: Wraps the files that are gone through, for a progress bar.

    Raises:
        ValueError: There is no usable audio, or a number makes no sense.
    """
    if clips_per_group < 1 or not 0 < seconds < math.inf:
        raise ValueError(f"at least 1 clip and more than 0 s of it are wanted, got {clips_per_group} and {seconds:g} s")
    manifest = scan_folder(folder, source_of=_group)
    set_aside = [f"{folder / path}: {reason}" for path, reason in manifest.skipped_files]
    names, notes = [], []
    for group in manifest.sources:
        found = [entry.path for entry in manifest.entries if entry.source == group]
        count = min(clips_per_group, len(found))
        names += [found[i * len(found) // count] for i in range(count)]
        if count < len(found):
            notes.append(f"{count} of the {len(found)} files of {group} were taken: --clips takes more")
    config = coder.codec.config
    opus_kbps, missing = opus_bandwidths(OPUS_KBPS, config.channels)
    measurements = []
    for name in track(names):
        try:
            audio = _read(folder / name, config.sample_rate, config.channels, seconds)
        except AudioFileError as error:
            set_aside.append(str(error))
            continue
        clip = _Clip(name, _group(name), audio)
        measurements += _measure(coder, clip, bandwidths_kbps)
        measurements += [_measure_opus(clip, config.sample_rate, kbps) for kbps in opus_kbps]
    if not measurements:
        raise ValueError(f"none of the {len(names)} files of {folder} could be read, for example {set_aside[-1]}")
    notes += missing + _undefined(measurements)
    return Evaluation(measurements, summarise(measurements), notes, set_aside)


def score(estimate: Tensor, reference: Tensor, sample_rate: int) -> dict[str, float]:
    """Every score of one clip, by name; NaN where one is not defined.

    Shape: estimate [C, T], reference [C, T].
    """
    scores = score_audio(estimate[None], reference[None], sample_rate)
    return {name: float(values) for name, values in scores.items()}


def summarise(measurements: Sequence[Measurement]) -> list[Point]:
    """One point per group, coder and bandwidth, and if there are several groups those of all clips at the end."""
    groups = list(dict.fromkeys(measurement.group for measurement in measurements))
    points = []
    for group in groups if len(groups) == 1 else [*groups, EVERYTHING]:
        chosen = [m for m in measurements if group in (m.group, EVERYTHING)]
        for coder, kbps in dict.fromkeys((m.coder, m.bandwidth_kbps) for m in chosen):
            points.append(_point(group, [m for m in chosen if (m.coder, m.bandwidth_kbps) == (coder, kbps)]))
    return points


def _point(group: str, measurements: Sequence[Measurement]) -> Point:
    seconds = sum(m.seconds for m in measurements)
    values = {name: np.array([m.scores[name] for m in measurements]) for name in measurements[0].scores}
    defined = {name: value[np.isfinite(value)] for name, value in values.items()}
    counts = [m.code_counts for m in measurements if m.code_counts is not None]
    perplexity, efficiency = [], math.nan
    if counts:
        total = torch.stack(counts).sum(0)
        sizes = [total.shape[1]] * len(total)
        perplexity = codebook_usage(total, sizes).perplexity.tolist()
        efficiency = bitrate_efficiency(total, sizes)
    return Point(
        group,
        measurements[0].coder,
        measurements[0].bandwidth_kbps,
        len(measurements),
        bitrate_kbps(sum(m.payload_bytes for m in measurements), seconds),
        bitrate_kbps(sum(m.file_bytes for m in measurements), seconds),
        {name: float(value.mean()) if len(value) else math.nan for name, value in defined.items()},
        {name: len(measurements) - len(value) for name, value in defined.items() if len(value) < len(measurements)},
        perplexity,
        efficiency,
    )


def _undefined(measurements: Sequence[Measurement]) -> list[str]:
    clips = len({m.clip for m in measurements})
    notes = []
    for name in measurements[0].scores:
        missing = len({m.clip for m in measurements if math.isnan(m.scores[name])})
        if missing:
            notes.append(f"{name} is not defined for {missing} of the {clips} clips, which its means leave out")
    return notes


def _measure(coder: FileCodec, clip: _Clip, bandwidths_kbps: Sequence[float]) -> list[Measurement]:
    sample_rate = coder.codec.config.sample_rate
    seconds = clip.audio.shape[-1] / sample_rate
    measurements = []
    with TemporaryDirectory() as folder:
        original, encoded, decoded = (Path(folder) / name for name in ("original.wav", "encoded.ecdc", "decoded.wav"))
        soundfile.write(original, clip.audio.T.numpy(), sample_rate, subtype="FLOAT")
        for kbps in bandwidths_kbps:
            file_bytes = coder.encode(original, encoded, kbps, coding="fixed").encoded_bytes
            coder.decode(encoded, decoded)
            payload_bytes, codes = _content(encoded)
            counts = count_codes(codes[None], [coder.codec.config.codebook_size] * len(codes))
            audio, _ = soundfile.read(decoded, dtype="float32", always_2d=True)
            scores = score(torch.from_numpy(audio.T.copy()), clip.audio, sample_rate)
            measurements.append(
                Measurement(clip.name, clip.group, "codec", kbps, seconds, payload_bytes, file_bytes, scores, counts)
            )
    return measurements


def _content(encoded: Path) -> tuple[int, Tensor]:
    """Bytes of codes and scales in a file, and the codes [K, F]."""
    with encoded.open("rb") as file:
        reader = BitstreamReader(file, str(encoded))
        blocks = [torch.from_numpy(block.codes.copy()) for block in reader.blocks()]
    header = reader.header
    side_bytes = _SCALE_BYTES * len(blocks) if header.scaled else 0
    return sum(header.block_bytes(block.shape[1]) for block in blocks) + side_bytes, torch.cat(blocks, 1)


def _measure_opus(clip: _Clip, sample_rate: int, bandwidth_kbps: float) -> Measurement:
    result = code_with_opus(clip.audio, sample_rate, bandwidth_kbps)
    return Measurement(
        clip.name,
        clip.group,
        "opus",
        bandwidth_kbps,
        clip.audio.shape[-1] / sample_rate,
        result.payload_bytes,
        result.file_bytes,
        score(result.audio, clip.audio, sample_rate),
        None,
    )


def _read(path: Path, sample_rate: int, channels: int, seconds: float) -> Tensor:
    """The start of a file, with the rate and channels that the model hears it with.

    Shape: -> [C, T], 0 < T <= seconds * sample_rate.
    """
    wanted = max(1, round(seconds * sample_rate))
    pieces: list[Tensor] = []
    for block in AudioReader(path, sample_rate, channels).blocks():
        pieces.append(block)
        if sum(piece.shape[-1] for piece in pieces) >= wanted:
            break
    audio = torch.cat(pieces, -1)[:, :wanted]
    if audio.shape[-1] == 0:
        raise AudioFileError(f"{path} holds no sample")
    return audio


def _group(path: str) -> str:
    parents = Path(path).parts[:-1]
    return parents[0] if parents else "audio"
