"""Opens the files of a command; `-` stands for standard input or standard output, which may be pipes."""

import os
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

__all__ = ["STANDARD_STREAM", "display_name", "is_stream", "open_audio_sink", "open_audio_source", "open_input",
           "open_output"]  # fmt: skip

STANDARD_STREAM = Path("-")
_OPEN_FILES = {"/dev/stdin", "/dev/stdout", "/dev/stderr"}  # they may be regular files that a shell has opened


def display_name(source: Path) -> str:
    """Name of an input in messages."""
    return "stdin" if source == STANDARD_STREAM else os.fspath(source)


def is_stream(path: Path) -> bool:
    """Whether a path is read or written in one pass: `-`, a pipe, a device, or an open file below /dev/fd."""
    if path == STANDARD_STREAM or os.fspath(path) in _OPEN_FILES or path.parent == Path("/dev/fd"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


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
    """Opens a pipe, a device, or a file that replaces `target` if the block ends without an error; makes its folder.

    Raises:
        ValueError: Standard output is a terminal.
        OSError: The target cannot be written; `filename` is its name.
    """
    if not is_stream(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary, temporary.open("wb") as file:
            yield file
        return
    try:
        if target != STANDARD_STREAM:
            with target.open("wb") as file:
                yield file
        elif sys.stdout.buffer.isatty():
            raise ValueError("the output is binary, but standard output is a terminal: name a file with -o")
        else:
            yield sys.stdout.buffer
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = "stdout" if target == STANDARD_STREAM else str(target)
        raise


@contextmanager
def open_audio_sink(target: Path, sample_rate: int, channels: int, raw_coding: str | None) -> Iterator[AudioSink]:
    """Opens a target for decoded audio. The suffix of a file chooses its format; pipes and devices get WAV.

    Args:
        raw_coding: `s16le` or `f32le` to write raw samples; None otherwise.

    Raises:
        AudioFileError, OSError: As in `codec.audio.writing_audio`.
    """
    if not is_stream(target) and raw_coding is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing_audio(target, sample_rate, channels) as writer:
            yield writer
        return
    with open_output(target) as file:
        yield wav_pipe_writer(file, sample_rate, channels) if raw_coding is None else RawWriter(file, raw_coding)
