"""Audio through pipes: WAV and raw samples as they arrive, and all other formats once the pipe has ended.

libsndfile cannot be used for audio that arrives: it seeks in what it reads. Formats that need it go through a temporary
file. Programs that write WAV to a pipe do not know its length. Such audio is read to the end of the pipe, and a WAV
that is written to a pipe states the length 0xFFFFFFFF.
"""

import io
import os
import re
import stat
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from codec.audio.formats import WavHeader, read_wav_header
from codec.audio.formats.wav import TRAILER, TRAILER_BYTES, end_notes, partial_sample_note
from codec.audio.reader import AudioFile
from codec.audio.source import MAX_SAMPLE_RATE, AudioFileError, AudioSource
from codec.audio.writer import to_int16

__all__ = ["AudioPipe", "RawFormat", "RawWriter", "open_audio", "wav_pipe_writer"]


class _Encoding(NamedTuple):
    """How a sample is stored."""

    dtype: str  # of NumPy, little-endian
    sample_bytes: int
    zero: int  # value of silence
    full_scale: int  # distance from there to an amplitude of 1


_ENCODINGS = {
    "u8": _Encoding("u1", 1, 128, 128),
    "s16le": _Encoding("<i2", 2, 0, 1 << 15),
    "s24le": _Encoding("<i4", 3, 0, 1 << 31),  # read as the upper 3 of 4 bytes
    "s32le": _Encoding("<i4", 4, 0, 1 << 31),
    "f32le": _Encoding("<f4", 4, 0, 1),
    "f64le": _Encoding("<f8", 8, 0, 1),
}
_UNKNOWN_LENGTH = 0xFFFFFFFF
_READ_BYTES = 1 << 16
_MAX_CHANNELS = 1 << 10
_SPOOL_BYTES = 1 << 22  # that stay in memory instead of a temporary file


class RawFormat(NamedTuple):
    """Format of raw samples, which have no header."""

    sample_rate: int  # Hz
    channels: int
    encoding: str  # u8, s16le, s24le, s32le, f32le or f64le

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses RATE:CHANNELS:ENCODING, for example 24000:1:s16le.

        Raises:
            ValueError: The text has another form.
        """
        found = re.fullmatch(r"(\d{1,7}):(\d{1,4}):(\w+)", text)
        if not found or found[3] not in _ENCODINGS or not 1 <= int(found[2]) <= _MAX_CHANNELS or int(found[1]) < 1:
            raise ValueError(f"expected raw audio as RATE:CHANNELS:{'|'.join(_ENCODINGS)}, got {text[:40]!r}")
        return cls(int(found[1]), int(found[2]), found[3])


def open_audio(source: Path | BinaryIO, name: str | None = None, raw: RawFormat | None = None) -> AudioSource:
    """Opens a file, a named pipe, a device such as /dev/stdin, or an open file or pipe.

    Args:
        source: A path, or a file that is open for reading. It need not be seekable.
        name: For messages; the path if None.
        raw: Format of raw samples; None for audio of any format with a header.

    Raises:
        AudioFileError: The source is missing, is a folder, or is not audio.
        OSError: It cannot be opened or read.
    """
    if isinstance(source, Path):
        name = name or os.fspath(source)
        if raw is None and source.is_file():
            return AudioFile(source, name)
        if not source.exists():
            raise AudioFileError(name, "no such file")
        if source.is_dir():
            raise AudioFileError(name, "is a folder, expected a file")
        opened: BinaryIO = source.open("rb")
    else:
        opened = source
    closes, name = opened is not source, name or "audio"
    if raw is not None:
        return AudioPipe(cast(io.BufferedIOBase, opened), name, raw, closes)
    if _is_regular(opened):  # a file redirected to standard input
        return AudioFile(opened, name, closes)
    return _open_pipe(opened, name, closes)


def _is_regular(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:  # no file of the system
        return file.seekable()


def _open_pipe(file: BinaryIO, name: str, closes: bool) -> AudioSource:
    """Audio with a header. WAV is read as it arrives if its coding allows it."""
    spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
    recording = _Recording(file, spool)
    header = read_wav_header(recording)
    if header is not None and _is_plain(header):
        spool.close()
        return AudioPipe(cast(io.BufferedIOBase, file), name, header, closes)
    while recording.read(_READ_BYTES):
        pass
    if closes:
        file.close()
    if spool.tell() == 0:
        spool.close()
        raise AudioFileError(name, "is empty")
    try:
        return AudioFile(cast(BinaryIO, spool), name, closes=True)
    except AudioFileError as error:
        raise AudioFileError(name, f"{error.reason}; raw samples need --raw") from error


def _is_plain(header: WavHeader) -> bool:
    return (
        header.encoding is not None
        and 1 <= header.channels <= _MAX_CHANNELS
        and 1 <= header.sample_rate <= MAX_SAMPLE_RATE
    )


class _Recording:
    """Keeps all that is read from a pipe."""

    def __init__(self, file: BinaryIO, copy: IO[bytes]) -> None:
        self._file, self._copy = file, copy

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._copy.write(data)
        return data


class AudioPipe:
    """An `AudioSource` for WAV or raw samples that are read as they arrive, in bounded memory.

    Args:
        file: Open for reading, at the first byte of audio; need not be seekable.
        name: For messages.
        format_: Of raw samples, or the header of a WAV that has one of the encodings of `RawFormat`.
        closes: Close the file at the end.
    """

    def __init__(
        self, file: io.BufferedIOBase, name: str, format_: RawFormat | WavHeader, closes: bool = False
    ) -> None:
        assert format_.encoding is not None
        self.name = name
        self.notes: list[str] = []
        self.sample_rate, self.channels = format_.sample_rate, format_.channels
        self._encoding = format_.encoding
        self._frame_bytes = self.channels * _ENCODINGS[self._encoding].sample_bytes
        self._header = format_ if isinstance(format_, WavHeader) else None
        self.layout: Sequence[str] | None = None if self._header is None else self._header.layout
        self._file, self._closes = file, closes
        self._remaining = None if self._header is None else self._header.size  # bytes of audio if known
        self._may_have_trailer = self._header is not None and self._header.size is None
        self._buffer = b""
        self._bytes_read = 0  # of audio
        self._ended = False

    def read(self) -> NDArray[np.float32]:
        """The samples that have arrived, as soon as there is one; none at the end.

        Shape: -> [t, C].
        """
        while len(self._buffer) - self._held() < self._frame_bytes and not self._ended:
            data = self._file.read1(_READ_BYTES if self._remaining is None else min(_READ_BYTES, self._remaining))
            if data:
                self._take(data)
            else:
                self._end()
        whole = len(self._buffer) - self._held()
        whole -= whole % self._frame_bytes
        data, self._buffer = self._buffer[:whole], self._buffer[whole:]
        return _to_float(data, self._encoding).reshape(-1, self.channels)

    def close(self) -> None:
        """Closes the file if it was opened here."""
        if self._closes:
            self._file.close()

    def _take(self, data: bytes) -> None:
        self._buffer += data
        self._bytes_read += len(data)
        if self._remaining is not None:
            self._remaining -= len(data)
        if self._may_have_trailer and (found := TRAILER.search(self._buffer)):
            self._bytes_read -= len(self._buffer) - found.start()
            self._buffer = self._buffer[: found.start()]
            self._remaining = 0  # what follows is read and dropped
            self._may_have_trailer = False

    def _held(self) -> int:
        """Bytes at the end of the buffer that may be the start of a chunk of text."""
        if not self._may_have_trailer or self._ended:
            return 0
        tail = self._buffer[1 - TRAILER_BYTES :]
        return next((len(tail) - at for at in range(len(tail)) if _may_begin_trailer(tail[at : at + 4])), 0)

    def _end(self) -> None:
        """Reads what follows the audio, so that the writing program does not get a broken pipe."""
        self._ended = True
        if self._header is None:
            if odd := self._bytes_read % self._frame_bytes:
                self.notes.append(partial_sample_note(self._frame_bytes, odd))
            return
        behind, count = b"", 0
        while self._remaining is not None and (data := self._file.read1(_READ_BYTES)):
            behind, count = (behind + data)[:5], count + len(data)
        self.notes.extend(end_notes(self._header, self._bytes_read, behind, count))


def _may_begin_trailer(start: bytes) -> bool:
    return b"LIST".startswith(start) or b"id3 ".startswith(start)


class RawWriter:
    """An `AudioSink` that writes raw samples and flushes each of them.

    Attributes:
        clipped: As in `AudioSink`; floats are not clipped.

    Args:
        file: Open for writing; need not be seekable.
        encoding: s16le or f32le.

    Raises:
        ValueError: The encoding is another.
    """

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        if encoding not in ("s16le", "f32le"):
            raise ValueError(f"expected raw audio to be written as s16le or f32le, got {encoding!r}")
        self._file = file
        self._encoding = encoding
        self.clipped = 0
        self.samples = 0

    def write(self, audio: Tensor) -> None:
        """As in `AudioSink`."""
        samples = audio.T.cpu().numpy()
        self.samples += len(samples)
        if self._encoding == "s16le":
            self.clipped += int(np.count_nonzero(np.abs(samples) > 1))
            samples = to_int16(samples)
        self._file.write(samples.astype(_ENCODINGS[self._encoding].dtype).tobytes())
        self._file.flush()


def wav_pipe_writer(file: BinaryIO, sample_rate: int, channels: int) -> RawWriter:
    """Writes the header of a 16-bit WAV of unknown length, and returns the writer of its samples.

    Args:
        file: As in `RawWriter`.
        sample_rate: In Hz.
        channels: Number of channels.
    """
    rate_bytes, frame_bytes = sample_rate * channels * 2, channels * 2
    format_ = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate, rate_bytes, frame_bytes, 16)
    data = struct.pack("<4sI", b"data", _UNKNOWN_LENGTH)
    file.write(struct.pack("<4sI4s", b"RIFF", _UNKNOWN_LENGTH, b"WAVE") + format_ + data)
    file.flush()
    return RawWriter(file, "s16le")


def _to_float(data: bytes, name: str) -> NDArray[np.float32]:
    """Integers become [-1, 1); floats keep their values."""
    encoding = _ENCODINGS[name]
    if encoding.sample_bytes == 3:
        data = np.pad(np.frombuffer(data, np.uint8).reshape(-1, 3), ((0, 0), (1, 0))).tobytes()
    samples = np.frombuffer(data, encoding.dtype).astype(np.float64)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and `AudioReader` refuses it
        return ((samples - encoding.zero) / encoding.full_scale).astype(np.float32)
