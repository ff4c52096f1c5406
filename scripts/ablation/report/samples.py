"""The held-out clips of an ablation: players for listening side by side, and how similar the outputs are."""

import base64
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from codec.evaluation.report.samples import spectrogram_db, spectrogram_png
from scripts.ablation.report.runs import Condition, Run

__all__ = ["ClipComparison", "Sample", "compare_clips", "output_similarity"]

_MAX_SECONDS = 3.0
_MAX_BYTES = 20_000_000  # of base64 audio and images in one page
_MIN_FLAC_SAMPLES = 2**15
_MAX_DB = 100.0
_ESTIMATE = re.compile(r"(?P<clip>.+)\.step\d{7}\.wav")


class Sample(NamedTuple):
    """Audio and spectrogram of one condition."""

    label: str
    is_reference: bool
    image: str  # data URI of a PNG
    audio: str  # data URI of a FLAC or WAV file


class ClipComparison(NamedTuple):
    """One clip under all conditions that were trained with the same seed."""

    clip: str
    seed: int
    max_khz: float  # upper edge of the spectrograms
    samples: Sequence[Sample]  # the reference first


def compare_clips(conditions: Sequence[Condition], max_clips: int = 4) -> tuple[list[ClipComparison], list[str]]:
    """The newest sample of the same clips from every finished run, seed by seed, until the page is full.

    Args:
        max_clips: Clips per seed, taken in turn from every group.

    Returns:
        The comparisons, and a note on everything that is cut or cannot be read.
    """
    runs = [(condition.label, run) for condition in conditions for run in condition.finished]
    references = _references([run for _, run in runs])
    names = list(references)[:max_clips]
    shown: list[ClipComparison] = []
    notes, used_bytes, dropped = [], 0, 0
    if len(references) > max_clips:
        notes.append(f"{max_clips} of {len(references)} clips are shown.")
    for seed in sorted({run.seed for _, run in runs}):
        for name in names:
            estimates = [(label, _newest_sample(run, name)) for label, run in runs if run.seed == seed]
            files = [(label, path) for label, path in estimates if path is not None]
            if shown and files and used_bytes * (1 + 1 / len(shown)) > _MAX_BYTES:
                dropped += 1
            elif files:
                comparison, unreadable = _compare(name, seed, [("reference", references[name]), *files])
                notes += unreadable
                if comparison is not None:
                    shown.append(comparison)
                    used_bytes += sum(len(sample.image) + len(sample.audio) for sample in comparison.samples)
    if dropped:
        notes.append(f"To keep the page small, pairs of clip and seed were left out: {dropped}.")
    return shown, notes


def _references(runs: Sequence[Run]) -> dict[str, Path]:
    """Clip -> its reference file, in this order: the first clip of each group, the second of each group, and so on."""
    paths = {
        path.name.removesuffix(".reference.wav"): path
        for run in runs
        for path in (run.folder / "samples").glob("*.reference.wav")
    }
    groups = {name: clip.group for run in runs for name, clip in run.clips.items()}
    count: dict[str, int] = defaultdict(int)
    rank = {}
    for name in sorted(paths):
        group = groups.get(name, "")
        rank[name] = (count[group], group, name)
        count[group] += 1
    return {name: paths[name] for name in sorted(paths, key=lambda name: rank[name])}


def _newest_sample(run: Run, clip: str) -> Path | None:
    paths = (run.folder / "samples").glob("*.wav")
    of_clip = [path for path in paths if (match := _ESTIMATE.fullmatch(path.name)) and match["clip"] == clip]
    return max(of_clip, default=None)  # steps have seven digits, so names sort by step


def _compare(clip: str, seed: int, files: Sequence[tuple[str, Path]]) -> tuple[ClipComparison | None, list[str]]:
    """None if the reference, the first of `files`, or every other file cannot be read."""
    read, notes = [], []
    for label, path in files:
        try:
            read.append((label, *_read(path, _MAX_SECONDS)))
        except (OSError, soundfile.SoundFileError, ValueError) as error:
            notes.append(f"{path.parents[1].name}/{path.name} cannot be read: {str(error).rstrip('.')}.")
    if len(read) < 2 or read[0][0] != "reference":
        return None, notes
    decibels = [spectrogram_db(audio, rate) for _, audio, rate in read]
    # One color scale for all samples; its maximum is the loudest point of the reference.
    top_db = max(float(decibels[0].max()), -100.0)
    samples = []
    for index, ((label, audio, rate), image) in enumerate(zip(read, decibels, strict=True)):
        png = _data_uri("image/png", spectrogram_png(_thumbnail(image), top_db))
        samples.append(Sample(label, index == 0, png, _audio_uri(audio, rate)))
    return ClipComparison(clip, seed, read[0][2] / 2000, samples), notes


def output_similarity(conditions: Sequence[Condition]) -> np.ndarray:
    """Mean SI-SDR in dB between the outputs of two conditions for the same clip and seed.

    SI-SDR is symmetric here: with c the cosine between two signals it is 10 log10(c² / (1 - c²)) in either direction.
    The diagonal compares a condition with itself under another seed. Values are limited to ±100 dB; NaN where there is
    nothing to compare.

    Shape: -> [S, S] for S conditions.
    """
    numbered = [(row, run) for row, condition in enumerate(conditions) for run in condition.finished]
    total, count = np.zeros((len(conditions),) * 2), np.zeros((len(conditions),) * 2)
    for clip in _references([run for _, run in numbered]):
        rows, seeds, signals = _unit_signals(numbered, clip)
        if len(rows) < 2:
            continue
        cosines = np.clip(signals @ signals.T, -1, 1)
        with np.errstate(divide="ignore"):
            decibels = np.clip(10 * np.log10(cosines**2 / (1 - cosines**2)), -_MAX_DB, _MAX_DB)
        # Pairs with the same seed or the same condition. Both would compare a file with itself.
        first, second = np.nonzero((rows[:, None] == rows) != (seeds[:, None] == seeds))
        np.add.at(total, (rows[first], rows[second]), decibels[first, second])
        np.add.at(count, (rows[first], rows[second]), 1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _unit_signals(numbered: Sequence[tuple[int, Run]], clip: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [N], seeds [N], normalized signals [N, T]; unreadable, silent and differently long outputs are skipped."""
    rows, seeds = [], []
    signals: list[np.ndarray] = []
    for row, run in numbered:
        path = _newest_sample(run, clip)
        try:
            audio = _read(path)[0].astype(np.float64) if path is not None else np.zeros(0)
        except (OSError, soundfile.SoundFileError, ValueError):
            continue  # `compare_clips` reports it
        norm = np.linalg.norm(audio)
        if norm > 0 and (not signals or len(audio) == len(signals[0])):
            rows.append(row)
            seeds.append(run.seed)
            signals.append(audio / norm)
    return np.array(rows), np.array(seeds), np.array(signals)


def _read(path: Path, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Mono audio [T] and its sample rate in Hz."""
    # libsndfile accepts only names that are valid text, so Python opens the file.
    with open(path, "rb") as raw, soundfile.SoundFile(raw) as file:
        frames = -1 if seconds is None else int(seconds * file.samplerate)
        audio, rate = file.read(frames, dtype="float32", always_2d=True), file.samplerate
    if not len(audio):
        raise ValueError("the file has no samples")
    mono = np.nan_to_num(audio.mean(1), nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(mono, -1, 1), rate


def _thumbnail(decibels: np.ndarray) -> np.ndarray:
    """Maximum over blocks of 2 × 2. Shape: [rows, columns] -> [rows / 2, columns / 2]."""
    rows, columns = (length // 2 * 2 for length in decibels.shape)
    if not columns:
        return decibels
    return decibels[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).max((1, 3))


def _audio_uri(audio: np.ndarray, rate: int) -> str:
    # Chromium cannot seek in a FLAC file of only a few frames, and does not play it.
    kind = "flac" if len(audio) >= _MIN_FLAC_SAMPLES else "wav"
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format=kind.upper(), subtype="PCM_16")
    return _data_uri(f"audio/{kind}", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
