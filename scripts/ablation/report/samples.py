"""The held-out clips of an ablation: players for listening side by side, and how similar the outputs are."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from codec.evaluation.report.samples import Version, audio_uri, read_audio
from scripts.ablation.report.runs import Condition, Run

__all__ = ["ClipComparison", "compare_clips", "output_similarity"]

_MAX_SECONDS = 3.0
_MAX_BYTES = 20_000_000  # of base64 audio in one page
_MAX_DB = 100.0
_ESTIMATE = re.compile(r"(?P<clip>.+)\.step\d{7}\.wav")


class ClipComparison(NamedTuple):
    """One clip under all conditions that were trained with the same seed."""

    name: str
    seed: int
    seconds: float
    versions: Sequence[Version]  # the reference first; the key is the label of the condition


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
                    used_bytes += sum(len(version.audio) for version in comparison.versions)
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
    versions, seconds, notes = [], 0.0, []
    for label, path in files:
        try:
            audio, rate = read_audio(path, _MAX_SECONDS)
        except (OSError, soundfile.SoundFileError, ValueError) as error:
            notes.append(f"{path.parents[1].name}/{path.name} cannot be read: {str(error).rstrip('.')}.")
            continue
        versions.append(Version(label, label, audio_uri(audio, rate), rate, label))
        seconds = max(seconds, len(audio) / rate)
    if len(versions) < 2 or versions[0].key != "reference":
        return None, notes
    return ClipComparison(clip, seed, round(seconds, 4), versions), notes


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
            audio = read_audio(path)[0].mean(1, dtype=np.float64) if path is not None else np.zeros(0)
        except (OSError, soundfile.SoundFileError, ValueError):
            continue  # `compare_clips` reports it
        norm = np.linalg.norm(audio)
        if norm > 0 and (not signals or len(audio) == len(signals[0])):
            rows.append(row)
            seeds.append(run.seed)
            signals.append(audio / norm)
    return np.array(rows), np.array(seeds), np.array(signals)
