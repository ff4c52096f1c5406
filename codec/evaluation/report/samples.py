"""The audio samples of a run, embedded in a page: reference, latest estimate, an earlier one, and Opus."""

import base64
import io
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from codec.evaluation.baselines import code_with_opus, possible_opus_bitrates

__all__ = ["Clip", "Version", "audio_uri", "read_audio", "read_clips", "versions_of"]

_MAX_SECONDS = 10.0
_MAX_BYTES = 24_000_000  # of base64 audio in one page
_MIN_FLAC_SAMPLES = 2**15
_ESTIMATE = re.compile(r"(?P<clip>.+)\.step(?P<step>\d{7})\.wav", re.DOTALL)


class Version(NamedTuple):
    """One version of a clip."""

    key: str  # "reference", "now", "earlier" or "opus"
    label: str
    audio: str  # data URI
    rate: int  # Hz
    system: str  # the label without what differs from clip to clip


class Clip(NamedTuple):
    """A clip in all its versions, the reference first."""

    name: str
    seconds: float
    versions: Sequence[Version]

    @property
    def is_rateable(self) -> bool:
        """Whether there is something to compare with the reference."""
        return len(self.versions) > 1 and self.versions[0].key == "reference"


class _File(NamedTuple):
    """An audio file as a version. Its date tells whether it has changed since the last update of the page."""

    key: str
    label: str
    path: Path
    modified_ns: int
    opus_kbps: float | None  # code it with Opus first


def read_clips(folder: Path, bandwidth_kbps: float | None = None, max_clips: int = 8) -> tuple[list[Clip], list[str]]:
    """Reads `<clip>.reference.wav` and two `<clip>.step<7 digits>.wav` of each clip.

    These are the newest one, and the newest one of the first half of the run. Audio is cut after 10 s and embedded
    losslessly: coding it again would change what is compared.

    Args:
        folder: The run's samples/, which may be missing.
        bandwidth_kbps: Rate of the estimates; the reference is also coded with Opus at this rate. None leaves it out.
        max_clips: Largest number of clips, in order of their names.

    Returns:
        The clips, and a note for everything that is left out.
    """
    steps: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.wav")):
        if path.name.endswith(".reference.wav"):
            steps.setdefault(path.name.removesuffix(".reference.wav"), [])
        elif match := _ESTIMATE.fullmatch(path.name):
            steps.setdefault(match["clip"], []).append(int(match["step"]))
    clips: list[Clip] = []
    notes: list[str] = []
    names, embedded_bytes = sorted(steps), 0
    for name in names[:max_clips]:
        if clips and embedded_bytes * (1 + 1 / len(clips)) > _MAX_BYTES:
            break
        clip = _read_clip(folder, name, sorted(steps[name]), bandwidth_kbps, notes)
        if clip is not None:
            clips.append(clip)
            embedded_bytes += sum(len(version.audio) for version in clip.versions)
    left_out = len(names) - len(clips)
    if clips and left_out and not any("cannot be shown" in note for note in notes):
        notes.append(f"The first {len(clips)} of {len(names)} clips are shown.")
    return clips, list(dict.fromkeys(notes))


def versions_of(clips: Sequence[Clip]) -> list[tuple[str, str]]:
    """Key and short label of every version that a clip has, in their order."""
    found = {version.key for clip in clips for version in clip.versions}
    labels = {"reference": "reference", "now": "now", "earlier": "earlier", "opus": "Opus"}
    return [(key, label) for key, label in labels.items() if key in found]


def _read_clip(
    folder: Path, name: str, steps: Sequence[int], bandwidth_kbps: float | None, notes: list[str]
) -> Clip | None:
    reference = folder / f"{name}.reference.wav"
    files: list[tuple[str, str, Path, float | None]] = [("reference", "reference", reference, None)]
    if steps:
        earlier = [step for step in steps if step <= steps[-1] // 2] or steps[:1]
        for key, label, step in (("now", "now, step", steps[-1]), ("earlier", "step", earlier[-1])):
            if key == "now" or step < steps[-1]:
                files.append((key, f"{label} {step:,}", folder / f"{name}.step{step:07d}.wav", None))
    if bandwidth_kbps is not None and reference.exists():
        files.append(("opus", "Opus", reference, bandwidth_kbps))
    versions, seconds = [], 0.0
    for key, label, path, kbps in files:
        try:
            version, duration = _embed(_File(key, label, path, os.stat(path).st_mtime_ns, kbps))
        except (OSError, soundfile.SoundFileError, ValueError) as error:
            note = str(error) if kbps else f"{path.name} cannot be shown: {error}"
            notes.append(note)
            continue
        versions.append(version)
        seconds = max(seconds, duration)
    return Clip(name, round(seconds, 4), versions) if versions else None


@lru_cache(maxsize=256)  # the page is updated during a run, and most of its audio does not change
def _embed(file: _File) -> tuple[Version, float]:
    """The version, and its duration in seconds."""
    audio, rate = read_audio(file.path, _MAX_SECONDS)
    label, seconds = file.label, len(audio) / rate
    if file.opus_kbps is not None:
        possible, reasons = possible_opus_bitrates([file.opus_kbps], audio.shape[1])
        if not possible:
            raise ValueError(f"{reasons[0]}.")
        coded = code_with_opus(torch.from_numpy(audio.T.copy()), rate, file.opus_kbps)
        label = f"Opus, {coded.payload_bytes * 8 / 1000 / seconds:.1f} kbit/s"
        audio = coded.audio.T.numpy()
    return Version(file.key, label, audio_uri(audio, rate), rate, file.label), seconds


def read_audio(path: Path, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Audio in [-1, 1] with one or two channels, and its sample rate in Hz. More channels become their mean.

    Args:
        seconds: Where to cut it; None reads everything.

    Shape: -> [T, C].

    Raises:
        ValueError: The file has no samples.
        OSError, soundfile.SoundFileError: It cannot be read.
    """
    # libsndfile opens only paths that are text, so the file is opened here.
    with open(path, "rb") as raw, soundfile.SoundFile(raw) as file:
        frames = -1 if seconds is None else int(seconds * file.samplerate)
        audio, rate = file.read(frames, dtype="float32", always_2d=True), file.samplerate
    if not len(audio):
        raise ValueError("it holds no samples")
    if audio.shape[1] > 2:
        audio = audio.mean(1, keepdims=True)
    return np.clip(np.nan_to_num(audio, nan=0.0, posinf=1.0, neginf=-1.0), -1, 1), rate


def audio_uri(audio: np.ndarray, rate: int) -> str:
    """A data URI of a FLAC file with 16 bits, which all browsers decode. Shape: audio [T, C]."""
    # Chromium does not play a FLAC file of only a few frames in an <audio> element.
    kind = "flac" if len(audio) >= _MIN_FLAC_SAMPLES else "wav"
    level = {"compression_level": 1.0} if kind == "flac" else {}
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format=kind.upper(), subtype="PCM_16", **level)
    return f"data:audio/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
