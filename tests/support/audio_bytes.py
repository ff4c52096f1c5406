"""Audio files as bytes, and reading them in all ways that must agree."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from codec.audio import AudioSource, open_audio, read_header, read_range

__all__ = ["Pipe", "encoded", "noise", "read_in_all_ways", "read_source"]


class Pipe(io.BufferedIOBase):
    """A pipe that returns at most 1000 bytes at a time, and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 1000))

    def read(self, size: int | None = -1) -> bytes:
        return self._file.read(size)


def noise(samples: int, channels: int = 1, seed: int = 3) -> np.ndarray:
    """Shape: -> [samples, channels]."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def encoded(audio: np.ndarray, format_: str, subtype: str | None = None, rate: int = 24_000, **options: Any) -> bytes:
    """The bytes of a file that libsndfile writes. Shape: audio [T, C]."""
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=format_, subtype=subtype, **options)
    return file.getvalue()


def read_source(source: AudioSource) -> tuple[np.ndarray, list[str]]:
    """All samples, and the notes. Shape: -> [T, C]."""
    pieces = [np.zeros((0, source.channels), np.float32)]
    while len(piece := source.read()):
        pieces.append(piece)
    source.close()
    return np.concatenate(pieces), source.notes


def read_in_all_ways(path: Path, data: bytes) -> tuple[np.ndarray, list[str]]:
    """Reads a file by name and by pipe, its header, and two parts of it; all must agree.

    Shape: -> [T, C].
    """
    path.write_bytes(data)
    samples, notes = read_source(open_audio(path))
    by_pipe, pipe_notes = read_source(open_audio(Pipe(data), "pipe"))
    np.testing.assert_array_equal(by_pipe, samples)
    assert pipe_notes == notes
    header = read_header(path)
    assert (header.frames, header.channels) == samples.shape
    for start, stop in ((0, 500), (len(samples) // 3, len(samples) // 3 + 1000), (len(samples) - 300, len(samples))):
        if 0 <= start < stop <= len(samples):
            part = read_range(path, header.sample_rate, header.channels, start, stop).T.numpy()
            # libsndfile decodes Vorbis differently by up to 3e-7 after a seek.
            np.testing.assert_allclose(part, samples[start:stop], rtol=0, atol=2e-6)
    return samples, notes
