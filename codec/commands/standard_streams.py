"""`-` in place of a file name: standard input and standard output, which are pipes as a rule."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from codec.atomic_file import atomic_write
from codec.audio.pipe import AudioPipe, RawFormat, RawWriter, wav_pipe_writer
from codec.audio.reader import AudioSink, AudioSource, SoundFileSource, writing_audio

__all__ = ["STANDARD", "name_of", "opening_audio", "opening_bytes", "writing_bytes", "writing_sink"]

STANDARD = Path("-")


def name_of(path: Path) -> str:
    """What messages call a file that is read."""
    return "stdin" if path == STANDARD else str(path)


@contextmanager
def opening_bytes(source: Path) -> Iterator[BinaryIO]:
    """A file to read, or standard input.

    Raises:
        OSError: There is no such file.
    """
    if source == STANDARD:
        yield sys.stdin.buffer
    else:
        with source.open("rb") as file:
            yield file


@contextmanager
def opening_audio(source: Path, raw: RawFormat | None) -> Iterator[AudioSource]:
    """Audio to read: a file of any format, the same on standard input if that is a file, else WAV or bare samples.

    Raises:
        AudioFileError: It is not audio.
        OSError: There is no such file.
    """
    if source != STANDARD and raw is None:
        yield SoundFileSource(source, str(source))
        return
    with opening_bytes(source) as file:
        if raw is None and file.seekable():
            yield SoundFileSource(file, name_of(source))
        else:
            yield AudioPipe(file, name_of(source), raw)  # type: ignore[arg-type]


@contextmanager
def writing_bytes(target: Path) -> Iterator[BinaryIO]:
    """A file that takes its name once the block ends without an error, or standard output."""
    if target == STANDARD:
        yield sys.stdout.buffer
    else:
        with atomic_write(target) as temporary, temporary.open("wb") as file:
            yield file


@contextmanager
def writing_sink(target: Path, sample_rate: int, channels: int, coding: str | None) -> Iterator[AudioSink]:
    """Where decoded audio goes: a file by its suffix, WAV on standard output; bare samples if there is a `coding`.

    Raises:
        AudioFileError, OSError: As in `codec.audio.reader.writing_audio`.
    """
    if target != STANDARD and coding is None:
        with writing_audio(target, sample_rate, channels) as writer:
            yield writer
        return
    with writing_bytes(target) as file:
        yield wav_pipe_writer(file, sample_rate, channels) if coding is None else RawWriter(file, coding)
