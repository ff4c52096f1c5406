"""The audio samples of a run as spectrograms and FLAC files that are embedded in a page."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import soundfile
from PIL import Image

__all__ = ["Clip", "Panel", "Tick", "read_clips", "spectrogram_db", "spectrogram_png"]

_COLUMNS, _ROWS = 320, 256
_RANGE_DB = 80.0
_MAX_SECONDS = 10.0
_ESTIMATE = re.compile(r"(?P<clip>.+)\.step(?P<step>\d{7})\.wav")


class Tick(NamedTuple):
    """A mark on an axis."""

    position: float  # in [0, 1] along the axis
    label: str


class Panel(NamedTuple):
    """One spectrogram with its audio."""

    label: str
    image: str  # data URI of a PNG
    audio: str  # data URI of a FLAC file
    seconds: Sequence[Tick]
    kilohertz: Sequence[Tick]


class Clip(NamedTuple):
    """A reference and its newest estimate."""

    name: str
    step: int | None  # step of the estimate; None when there is only a reference
    panels: Sequence[Panel]  # the reference first


class _Signal(NamedTuple):
    label: str
    audio: np.ndarray  # [T]
    sample_rate: int


def read_clips(folder: Path, max_clips: int = 8) -> tuple[list[Clip], list[str]]:
    """Reads `<clip>.reference.wav` and the newest `<clip>.step<7 digits>.wav` of each clip.

    Args:
        folder: The run's samples/, which may be missing.
        max_clips: Largest number of clips, in order of their names.

    Returns:
        The clips, and a note for everything that is left out.
    """
    steps: dict[str, int | None] = {}
    for path in sorted(folder.glob("*.wav")):
        if path.name.endswith(".reference.wav"):
            steps.setdefault(path.name.removesuffix(".reference.wav"), None)
        elif match := _ESTIMATE.fullmatch(path.name):
            steps[match["clip"]] = max(int(match["step"]), steps.get(match["clip"]) or 0)
    clips, notes = [], []
    names = sorted(steps)
    if len(names) > max_clips:
        notes.append(f"The first {max_clips} of {len(names)} clips are shown.")
    for name in names[:max_clips]:
        files = {"reference": folder / f"{name}.reference.wav"}
        step = steps[name]
        if step is not None:
            files[f"step {step}"] = folder / f"{name}.step{step:07d}.wav"
        signals = []
        for label, path in files.items():
            try:
                signals.append(_read(label, path))
            except (OSError, soundfile.SoundFileError, ValueError) as error:
                notes.append(f"{path.name} cannot be shown: {error}")
        if signals:
            clips.append(Clip(name, step, _panels(signals)))
    return clips, notes


def spectrogram_db(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power of a short-time Fourier transform with a Hann window, in dB; low frequencies come first.

    The window is the power of two nearest to 43 ms. The hop gives about 320 frames at any duration. Neighbouring bins
    are reduced to 256 rows by their maximum. A full-scale sine has 0 dB.

    Shape: audio [T] -> [256, frames].
    """
    window = max(2 * _ROWS, 2 ** round(np.log2(0.043 * sample_rate)))
    hop = max(1, -(-len(audio) // _COLUMNS))
    padded = np.pad(audio.astype(np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[: max(1, len(audio)) : hop]
    hann = np.hanning(window + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * hann)[:, 1:] * 2 / hann.sum()) ** 2
    pooled = power.reshape(len(power), _ROWS, -1).max(-1)
    return 10 * np.log10(np.maximum(pooled.T, 1e-12))


def spectrogram_png(decibels: np.ndarray, top_db: float) -> bytes:
    """A PNG with one byte per pixel and high frequencies at the top.

    The brightest colour is `top_db`, the darkest is 80 dB below.

    Shape: decibels [rows, columns].
    """
    index = np.clip((decibels - top_db) / _RANGE_DB + 1, 0, 1) * 255
    image = Image.fromarray(np.round(index[::-1]).astype(np.uint8))
    palette = matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _read(label: str, path: Path) -> _Signal:
    # libsndfile opens only paths that are text, so the file is opened here.
    with open(path, "rb") as raw, soundfile.SoundFile(raw) as file:
        audio = file.read(int(_MAX_SECONDS * file.samplerate), dtype="float32", always_2d=True)
        sample_rate = file.samplerate
    if not len(audio):
        raise ValueError("it holds no samples")
    mono = np.nan_to_num(audio.mean(1), nan=0.0, posinf=1.0, neginf=-1.0)
    return _Signal(label, np.clip(mono, -1, 1), sample_rate)


def _panels(signals: Sequence[_Signal]) -> list[Panel]:
    # Both have one colour scale, whose top is the loudest point of the first: of the reference, if there is one.
    decibels = [spectrogram_db(signal.audio, signal.sample_rate) for signal in signals]
    top_db = max(float(decibels[0].max()), -100.0)
    return [
        Panel(
            signal.label,
            _data_uri("image/png", spectrogram_png(image, top_db)),
            _data_uri("audio/flac", _flac(signal)),
            _ticks(len(signal.audio) / signal.sample_rate),
            _ticks(signal.sample_rate / 2000),
        )
        for signal, image in zip(signals, decibels, strict=True)
    ]


def _flac(signal: _Signal) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal.audio, signal.sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _ticks(end: float) -> list[Tick]:
    """Three to six round numbers from 0 to at most `end`."""
    unit = 10.0 ** np.floor(np.log10(end))
    step = next(step for step in (unit * np.array([0.1, 0.2, 0.5, 1, 2])) if end / step < 6)
    return [Tick(float(mark / end), f"{mark:g}") for mark in np.arange(0, end * (1 + 1e-9), step)]
