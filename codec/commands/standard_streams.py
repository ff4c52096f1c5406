"""Opens the files of a command; `-` stands for standard input or standard output, which may be pipes."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from codec.atomic_file import atomic_write
from codec.audio import (
    AudioSink,
    AudioSource,
    RawFormat,
    RawWriter,
    open_audio,
    wav_pipe_writer,
    writing_audio,
)

__all__ = ["STANDARD_STREAM", "display_name", "open_audio_sink", "open_audio_source", "open_input", "open_output"]

STANDARD_STREAM = Path("-")


def display_name(source: Path) -> str:
    """Name of an input in messages."""
    return "stdin" if source == STANDARD_STREAM else str(source)


@contextmanager
def open_input(source: Path) -> Iterator[BinaryIO]:
    """Opens a file or standard input.

    Raises:
        OSError: The file cannot be opened.
    """
    if source == STANDARD_STREAM:
        yield sys.stdin.buffer
    else:
        with source.open("rb") as file:
            yield file


@contextmanager
def open_audio_source(source: Path, raw: RawFormat | None) -> Iterator[AudioSource]:
    """Opens audio to read. Pipes and files may have any format.

    Args:
        raw: Format of raw samples; None if the input is not raw.

    Raises:
        AudioFileError: The input is not audio.
        OSError: The file cannot be opened.
    """
    opened = sys.stdin.buffer if source == STANDARD_STREAM else source
    with closing(open_audio(opened, display_name(source), raw)) as audio:
        yield audio


@contextmanager
def open_output(target: Path) -> Iterator[BinaryIO]:
    """Opens standard output, or a file that replaces `target` if the block ends without an error."""
    if target == STANDARD_STREAM:
        yield sys.stdout.buffer
    else:
        with atomic_write(target) as temporary, temporary.open("wb") as file:
            yield file


@contextmanager
def open_audio_sink(target: Path, sample_rate: int, channels: int, raw_coding: str | None) -> Iterator[AudioSink]:
    """Opens a target for decoded audio. The suffix of a file chooses its format; standard output gets WAV.

    Args:
        raw_coding: `s16le` or `f32le` to write raw samples; None otherwise.

    Raises:
        AudioFileError, OSError: As in `codec.audio.writing_audio`.
    """
    if target != STANDARD_STREAM and raw_coding is None:
        with writing_audio(target, sample_rate, channels) as writer:
            yield writer
        return
    with open_output(target) as file:
        yield wav_pipe_writer(file, sample_rate, channels) if raw_coding is None else RawWriter(file, raw_coding)
