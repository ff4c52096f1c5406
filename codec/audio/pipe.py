"""Audio through pipes: WAV, streamed WAV included, and raw samples.

libsndfile cannot be used here. It needs the true length in a WAV header before it reads, and it seeks back to the
header after it has written. Programs that write WAV to a pipe state the length 0, or a number from 0x7FFFF000 to
0xFFFFFFFF. Such audio is read to the end of the pipe. A WAV that is written to a pipe states 0xFFFFFFFF.
"""

import io
import re
import struct
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from codec.audio.reader import MAX_SAMPLE_RATE, AudioFileError
from codec.audio.writer import to_int16

__all__ = ["AudioPipe", "RawFormat", "RawWriter", "wav_pipe_writer"]


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
# By the format tag and the bits per sample of a WAV header.
_WAV_ENCODINGS = {
    (1, 8): "u8",
    (1, 16): "s16le",
    (1, 24): "s24le",
    (1, 32): "s32le",
    (3, 32): "f32le",
    (3, 64): "f64le",
}
_EXTENSIBLE = 0xFFFE  # the tag then stands at byte 24 of a longer format chunk
_UNKNOWN_LENGTH = 0xFFFFFFFF
_UNKNOWN_LENGTH_FROM = 0x7FFFF000  # nearly 2 GiB; SoX and others write such a length if they do not know it
_READ_BYTES = 1 << 16
_MAX_CHANNELS = 1 << 10
_MAX_FORMAT_BYTES = 1 << 16  # of a format chunk, of which 40 are used


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


class AudioPipe:
    """An `AudioSource` for WAV or raw samples that are read as they arrive, in bounded memory.

    Args:
        file: Open for reading; need not be seekable.
        name: For messages.
        raw: Format of raw samples. None expects WAV with 8 to 32 bits or with floats.

    Raises:
        AudioFileError: The header is not that of a WAV, or states a format that is not supported.
    """

    def __init__(self, file: io.BufferedIOBase, name: str, raw: RawFormat | None) -> None:
        self.name = name
        self.notes: list[str] = []
        self._file = file
        self._remaining: int | None = None  # bytes of audio if their number is known
        self._has_known_length = False
        self._buffer = b""
        self._bytes_read = 0
        format_ = self._read_wav_header() if raw is None else raw
        self.sample_rate, self.channels, self._encoding = format_
        self._frame_bytes = self.channels * _ENCODINGS[self._encoding].sample_bytes

    def read(self) -> NDArray[np.float32]:
        """The samples that have arrived, as soon as there is one; none at the end.

        Shape: -> [t, C].

        Raises:
            AudioFileError: The audio ends before the length in the header, or within a sample.
        """
        while len(self._buffer) < self._frame_bytes:
            data = self._file.read1(_READ_BYTES if self._remaining is None else min(_READ_BYTES, self._remaining))
            if not data:
                self._check_end()
                return np.zeros((0, self.channels), np.float32)
            self._buffer += data
            self._bytes_read += len(data)
            if self._remaining is not None:
                self._remaining -= len(data)
        whole = len(self._buffer) - len(self._buffer) % self._frame_bytes
        data, self._buffer = self._buffer[:whole], self._buffer[whole:]
        return _to_float(data, self._encoding).reshape(-1, self.channels)

    def close(self) -> None:
        """Reads what follows the audio, so that the writing program does not get a broken pipe."""
        while self._remaining is not None and self._file.read1(_READ_BYTES):
            pass

    def _check_end(self) -> None:
        if self._remaining and self._has_known_length:
            stated = self._bytes_read + self._remaining
            raise AudioFileError(
                self.name, f"ends after {self._bytes_read} bytes of audio, its header states {stated} bytes"
            )
        if self._buffer:
            raise AudioFileError(
                self.name, f"ends within a sample of {self._frame_bytes} bytes, of which {len(self._buffer)} are there"
            )

    def _read_wav_header(self) -> RawFormat:
        start = self._take(12, "the header of a WAV")
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            raise AudioFileError(self.name, "is not WAV: send WAV through the pipe, or raw samples with --raw")
        format_ = None
        while True:
            name, size = struct.unpack("<4sI", self._take(8, "its audio"))
            if name == b"data":
                break
            if name == b"fmt ":
                format_ = self._parse_format(self._take(min(size, _MAX_FORMAT_BYTES), "the end of its format chunk"))
                size -= min(size, _MAX_FORMAT_BYTES)
            self._skip(size + size % 2)
        if format_ is None:
            raise AudioFileError(self.name, "is a WAV without a format chunk before its audio")
        self._remaining = None if size in (0, _UNKNOWN_LENGTH) else size
        self._has_known_length = 0 < size < _UNKNOWN_LENGTH_FROM
        return format_

    def _parse_format(self, chunk: bytes) -> RawFormat:
        if len(chunk) < 16:
            raise AudioFileError(
                self.name, f"is a WAV with a format chunk of {len(chunk)} bytes, expected at least 16 bytes"
            )
        tag, channels, sample_rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", chunk[:16])
        if tag == _EXTENSIBLE and len(chunk) >= 26:
            (tag,) = struct.unpack("<H", chunk[24:26])
        encoding = _WAV_ENCODINGS.get((tag, bits))
        if encoding is None:
            raise AudioFileError(
                self.name,
                f"is a WAV with format tag {tag} and {bits} bits, expected PCM of 8, 16, 24 or 32 bits, or floats",
            )
        plausible = 1 <= channels <= _MAX_CHANNELS and 1 <= sample_rate <= MAX_SAMPLE_RATE
        if not plausible or frame_bytes != channels * bits // 8:
            raise AudioFileError(
                self.name,
                f"is a WAV with a corrupt format chunk: {channels} channels of {bits} bits in {frame_bytes} bytes "
                f"at {sample_rate} Hz",
            )
        return RawFormat(sample_rate, channels, encoding)

    def _take(self, length: int, expected: str) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise AudioFileError(self.name, f"is truncated before {expected}")
        return data

    def _skip(self, length: int) -> None:
        while length:
            length -= len(self._take(min(length, _READ_BYTES), "its audio"))


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
