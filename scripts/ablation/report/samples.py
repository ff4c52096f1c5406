"""The held-out clips of an ablation's cells: to hear side by side, and how much the outputs of strategies differ."""

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
from scripts.ablation.report.runs import Cell, Condition

__all__ = ["Listening", "Sound", "listen", "output_agreement"]

_LONGEST_SECONDS = 3.0
_MOST_BYTES = 20_000_000  # of sounds and pictures as base64
_SHORTEST_FLAC = 2**15  # samples
_MOST_DB = 100.0
_ESTIMATE = re.compile(r"(?P<clip>.+)\.step\d{7}\.wav")


class Sound(NamedTuple):
    """What is heard and seen of one condition."""

    label: str
    is_reference: bool
    image: str  # data URI of a PNG
    audio: str  # data URI of a FLAC or WAV file


class Listening(NamedTuple):
    """One clip under every condition, all trained from the same seed."""

    clip: str
    seed: int
    kilohertz: float  # of the upper edge of the spectrograms
    sounds: Sequence[Sound]  # the reference first


def listen(conditions: Sequence[Condition], most_clips: int = 4) -> tuple[list[Listening], list[str]]:
    """The newest sample of the same clips from every cell, the first seed's first, as long as the page stays small.

    Args:
        conditions: whose finished cells to hear.
        most_clips: of each seed, taken in turn from every group.

    Returns:
        What there is to hear, and a line for everything that is cut or cannot be read.
    """
    cells = [(condition.label, cell) for condition in conditions for cell in condition.finished]
    references = _references([cell for _, cell in cells])
    names = list(references)[:most_clips]
    shown: list[Listening] = []
    notes, taken, left_out = [], 0, 0
    if len(references) > most_clips:
        notes.append(f"{most_clips} of {len(references)} clips are shown.")
    for seed in sorted({cell.seed for _, cell in cells}):
        for name in names:
            samples = [(label, _newest(cell, name)) for label, cell in cells if cell.seed == seed]
            files = [(label, path) for label, path in samples if path is not None]
            if shown and files and taken * (1 + 1 / len(shown)) > _MOST_BYTES:
                left_out += 1
            elif files:
                listening, unread = _listening(name, seed, [("reference", references[name]), *files])
                shown += listening
                taken += sum(len(sound.image) + len(sound.audio) for one in listening for sound in one.sounds)
                notes += unread
    if left_out:
        notes.append(f"{left_out} further pairs of clip and seed are left out to keep the page small.")
    return shown, notes


def _references(cells: Sequence[Cell]) -> dict[str, Path]:
    """Clip to its reference on disk: the first clip of every group, the second of every group, and so on."""
    paths = {
        path.name.removesuffix(".reference.wav"): path
        for cell in cells
        for path in (cell.folder / "samples").glob("*.reference.wav")
    }
    groups = {name: clip.group for cell in cells for name, clip in cell.clips.items()}
    seen: dict[str, int] = defaultdict(int)
    places = {}
    for name in sorted(paths):
        group = groups.get(name, "")
        places[name] = (seen[group], group, name)
        seen[group] += 1
    return {name: paths[name] for name in sorted(paths, key=lambda name: places[name])}


def _newest(cell: Cell, clip: str) -> Path | None:
    paths = (cell.folder / "samples").glob("*.wav")
    own = [path for path in paths if (match := _ESTIMATE.fullmatch(path.name)) and match["clip"] == clip]
    return max(own, default=None)  # seven digits: the order of names is that of steps


def _listening(clip: str, seed: int, files: Sequence[tuple[str, Path]]) -> tuple[list[Listening], list[str]]:
    """The clip in a list, which is empty when its reference, the first of `files`, or all others cannot be read."""
    read, notes = [], []
    for label, path in files:
        try:
            read.append((label, *_read(path, _LONGEST_SECONDS)))
        except (OSError, soundfile.SoundFileError, ValueError) as error:
            notes.append(f"{path.parents[1].name}/{path.name} cannot be shown: {str(error).rstrip('.')}.")
    if len(read) < 2 or read[0][0] != "reference":
        return [], notes
    decibels = [spectrogram_db(audio, rate) for _, audio, rate in read]
    # One colour scale for all: its top is the loudest point of the reference.
    top_db = max(float(decibels[0].max()), -100.0)
    sounds = [
        Sound(
            label,
            index == 0,
            _data_uri("image/png", spectrogram_png(_halved(image), top_db)),
            _player_uri(audio, rate),
        )
        for index, ((label, audio, rate), image) in enumerate(zip(read, decibels, strict=True))
    ]
    return [Listening(clip, seed, read[0][2] / 2000, sounds)], notes


def output_agreement(conditions: Sequence[Condition]) -> np.ndarray:
    """SI-SDR between the outputs of each pair of conditions for the same clip and seed, in dB, mean over those.

    Neither of the two is the reference: with c the cosine between two signals, SI-SDR is 10 log10(c² / (1 - c²)) from
    either side. On the diagonal stands the agreement of a condition with itself under another seed, the yardstick for
    the rest. Held at ±100 dB; NaN where there is nothing to compare.

    Shape: -> [S, S] for S conditions.
    """
    places = [(row, cell) for row, condition in enumerate(conditions) for cell in condition.finished]
    total, count = np.zeros((len(conditions),) * 2), np.zeros((len(conditions),) * 2)
    for clip in _references([cell for _, cell in places]):
        rows, seeds, signals = _unit_signals(places, clip)
        if len(rows) < 2:
            continue
        cosines = np.clip(signals @ signals.T, -1, 1)
        with np.errstate(divide="ignore"):
            decibels = np.clip(10 * np.log10(cosines**2 / (1 - cosines**2)), -_MOST_DB, _MOST_DB)
        # Pairs that share the seed or the condition, not both (one file with itself) and not neither.
        first, second = np.nonzero((rows[:, None] == rows) != (seeds[:, None] == seeds))
        np.add.at(total, (rows[first], rows[second]), decibels[first, second])
        np.add.at(count, (rows[first], rows[second]), 1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _unit_signals(places: Sequence[tuple[int, Cell]], clip: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and seeds [N] of the cells whose output is readable, not silent and as long as the first; signals [N, T]."""
    rows, seeds = [], []
    signals: list[np.ndarray] = []
    for row, cell in places:
        path = _newest(cell, clip)
        try:
            audio = _read(path)[0].astype(np.float64) if path is not None else np.zeros(0)
        except (OSError, soundfile.SoundFileError, ValueError):
            continue  # `listen` names it
        norm = np.linalg.norm(audio)
        if norm > 0 and (not signals or len(audio) == len(signals[0])):
            rows.append(row)
            seeds.append(cell.seed)
            signals.append(audio / norm)
    return np.array(rows), np.array(seeds), np.array(signals)


def _read(path: Path, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Mono audio [T] and its sample rate in Hz."""
    # Opened here because libsndfile takes only names that are text.
    with open(path, "rb") as raw, soundfile.SoundFile(raw) as file:
        frames = -1 if seconds is None else int(seconds * file.samplerate)
        audio, rate = file.read(frames, dtype="float32", always_2d=True), file.samplerate
    if not len(audio):
        raise ValueError("it holds no sample")
    mono = np.nan_to_num(audio.mean(1), nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(mono, -1, 1), rate


def _halved(decibels: np.ndarray) -> np.ndarray:
    """The loudest of 2 × 2 neighbours: a thumbnail. Shape: [rows, columns] -> [rows / 2, columns / 2]."""
    rows, columns = (length // 2 * 2 for length in decibels.shape)
    if not columns:
        return decibels
    return decibels[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).max((1, 3))


def _player_uri(audio: np.ndarray, rate: int) -> str:
    # Chromium cannot seek in a FLAC file of only a few frames, and then does not play it either.
    kind = "flac" if len(audio) >= _SHORTEST_FLAC else "wav"
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format=kind.upper(), subtype="PCM_16")
    return _data_uri(f"audio/{kind}", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
