"""Audio out: WAV and FLAC files with 16 bits, and Ogg Vorbis."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from codec.atomic_file import atomic_write
from codec.audio.source import AudioFileError

__all__ = ["WRITABLE_SUFFIXES", "AudioSink", "AudioWriter", "to_int16", "write_audio", "writing_audio"]

_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
WRITABLE_SUFFIXES = tuple(_FORMATS)


class AudioSink(Protocol):
    """Takes decoded audio.

    Attributes:
        clipped: Number of samples so far outside [-1, 1], which were set to the nearer bound.
        samples: Number of samples so far, per channel.
    """

    clipped: int
    samples: int

    def write(self, audio: Tensor) -> None:
        """Appends `audio`.

        Shape: [C, t].
        """


class AudioWriter:
    """The `AudioSink` that `writing_audio` returns.

    Args:
        file: Open for writing.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self.clipped = 0
        self.samples = 0

    def write(self, audio: Tensor) -> None:
        """As in `AudioSink`."""
        samples = audio.detach().float().T.cpu().numpy()
        self.clipped += int(np.count_nonzero(np.abs(samples) > 1))
        self.samples += len(samples)
        self._file.write(to_int16(samples) if self._file.subtype == "PCM_16" else samples.clip(-1, 1))


@contextmanager
def writing_audio(path: Path, sample_rate: int, channels: int) -> Iterator[AudioWriter]:
    """Writes an audio file, which gets its name once the block ends without an error.

    Args:
        path: Its suffix, .wav, .flac or .ogg, determines the format.
        sample_rate: In Hz.
        channels: Number of channels.

    Raises:
        AudioFileError: The suffix is another, or libsndfile cannot write this audio.
        OSError: The file cannot be created.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        given = f"not as {path.suffix}" if path.suffix else "but the name has no suffix"
        raise AudioFileError(path, f"audio can be written as {', '.join(_FORMATS)}, {given}")
    container, subtype = _FORMATS[suffix]
    with atomic_write(path) as temporary:
        try:
            with soundfile.SoundFile(
                os.fsencode(temporary), "w", sample_rate, channels, subtype, format=container
            ) as file:
                writer = AudioWriter(file)
                yield writer
        except soundfile.SoundFileError as error:
            # libsndfile has "System error" for a full disk. The temporary file still takes what was free.
            full = shutil.disk_usage(temporary.parent).free == 0
            reason = os.strerror(errno.ENOSPC) if full else error
            raise AudioFileError(path, f"cannot be written ({reason})") from error
        if suffix == ".flac" and writer.samples == 0:
            # libsndfile leaves a file of 0 bytes, which it cannot read.
            raise AudioFileError(path, "FLAC cannot store 0 samples, write .wav instead")


def write_audio(path: Path, audio: Tensor, sample_rate: int) -> None:
    """Writes a whole signal with `writing_audio`; creates the folder.

    Shape: audio [C, T].
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_audio(path, sample_rate, len(audio)) as writer:
        writer.write(audio)


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Rounds to 16 bits and clips; libsndfile itself would round down, a bias of half a step."""
    return (samples * 32768).round().clip(-32768, 32767).astype(np.int16)
