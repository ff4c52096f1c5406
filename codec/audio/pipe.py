"""Audio through pipes: WAV or bare samples, of a length nobody knows before the end.

What cannot seek is not for libsndfile: it wants the length of a WAV it reads to be right, and goes back to the header
of one it has written. Here a WAV's length may be unknown (0, or from 0x7FFFF000 to 0xFFFFFFFF, as programs that write
to pipes put it there), and then its audio goes on to the end of the pipe; one that is written says 0xFFFFFFFF.
"""

import io
import re
import struct
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from codec.audio.reader import AudioFileError, to_int16

__all__ = ["AudioPipe", "RawFormat", "RawWriter", "wav_pipe_writer"]

# numpy's type, and what stands for 0 and for full scale; 24 bits are read as the upper ones of 32.
_CODINGS = {
    "u8": ("u1", 128, 128),
    "s16le": ("<i2", 0, 1 << 15),
    "s24le": ("<i4", 0, 1 << 31),
    "s32le": ("<i4", 0, 1 << 31),
    "f32le": ("<f4", 0, 1),
    "f64le": ("<f8", 0, 1),
}
_SAMPLE_BYTES = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}
# By the format tag and the bits of a sample in a WAV.
_WAV_CODINGS = {(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le", (3, 64): "f64le"}
_EXTENSIBLE = 0xFFFE  # the tag then stands in the first bytes of a longer format chunk's identifier
_UNKNOWN = 0xFFFFFFFF
_UNKNOWN_FROM = 0x7FFFF000  # 2 GiB less a page or so: what SoX and others put for a length they do not know
_PIECE = 1 << 16  # bytes read at a time
_CHANNELS_LIMIT = 1 << 10
_CHUNK_LIMIT = 1 << 16  # bytes of a format chunk; 40 are used


class RawFormat(NamedTuple):
    """What bare samples cannot say of themselves."""

    sample_rate: int  # Hz
    channels: int
    coding: str  # a key of `_CODINGS`

    @classmethod
    def parse(cls, text: str) -> Self:
        """From RATE:CHANNELS:CODING, for example 24000:1:s16le.

        Raises:
            ValueError: The text is of another form; the message says of which it must be.
        """
        found = re.fullmatch(r"(\d{1,7}):(\d{1,4}):(\w+)", text)
        if not found or found[3] not in _CODINGS or not 1 <= int(found[2]) <= _CHANNELS_LIMIT or int(found[1]) < 1:
            raise ValueError(f"raw audio is described as RATE:CHANNELS:{'|'.join(_CODINGS)}, not as {text[:40]!r}")
        return cls(int(found[1]), int(found[2]), found[3])


class AudioPipe:
    """Reads WAV or bare samples as they arrive, in bounded memory.

    Attributes:
        name: What messages call it.
        sample_rate, channels: Of the audio.

    Args:
        file: Open for reading; need not be seekable.
        name: As above.
        raw: What the samples are; None for WAV, of PCM with 8 to 32 bits or of floats.

    Raises:
        AudioFileError: There is no WAV, or one of another coding.
    """

    def __init__(self, file: io.BufferedIOBase, name: str, raw: RawFormat | None) -> None:
        self.name = name
        self._file = file
        self._left: int | None = None  # bytes of audio, if their number is known
        self._open_ended = True
        self._rest = b""
        self._bytes_read = 0
        format_ = self._read_wav_header() if raw is None else raw
        self.sample_rate, self.channels, self._coding = format_
        self._frame_bytes = self.channels * _SAMPLE_BYTES[self._coding]

    def read(self) -> NDArray[np.float32]:
        """What has arrived, at least one sample, as soon as it is there; nothing at the end.

        Shape: -> [t, C].

        Raises:
            AudioFileError: The audio ends before the header says, or within a sample.
        """
        while len(self._rest) < self._frame_bytes:
            data = self._file.read1(_PIECE if self._left is None else min(_PIECE, self._left))
            if not data:
                self._check_end()
                return np.zeros((0, self.channels), np.float32)
            self._rest += data
            self._bytes_read += len(data)
            if self._left is not None:
                self._left -= len(data)
        whole = len(self._rest) - len(self._rest) % self._frame_bytes
        data, self._rest = self._rest[:whole], self._rest[whole:]
        return _floats(data, self._coding).reshape(-1, self.channels)

    def shortfall(self) -> None:
        """None: audio that is shorter than announced is an error in a pipe."""

    def close(self) -> None:
        """Reads what may follow the audio, so that whoever writes it does not find a broken pipe."""
        while self._left is not None and self._file.read1(_PIECE):
            pass

    def _check_end(self) -> None:
        if self._left and not self._open_ended:
            announced = self._bytes_read + self._left
            raise AudioFileError(
                f"{self.name} ends after {self._bytes_read} of the {announced} bytes of audio it announces"
            )
        if self._rest:
            raise AudioFileError(f"{self.name} ends within a sample of {self._frame_bytes} bytes")

    def _read_wav_header(self) -> RawFormat:
        start = self._take(12, "it has not even the header of a WAV")
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            raise AudioFileError(
                f"{self.name} is no WAV; through a pipe audio must come as WAV, or as bare samples with --raw"
            )
        format_ = None
        while True:
            name, size = struct.unpack("<4sI", self._take(8, "it has no audio"))
            if name == b"data":
                break
            if name == b"fmt ":
                format_ = self._parse_format(self._take(min(size, _CHUNK_LIMIT), "its format is cut short"))
                size -= min(size, _CHUNK_LIMIT)
            self._pass_over(size + size % 2)
        if format_ is None:
            raise AudioFileError(f"{self.name} is a WAV that does not say what its audio is")
        self._left = None if size in (0, _UNKNOWN) else size
        self._open_ended = size == 0 or size >= _UNKNOWN_FROM
        return format_

    def _parse_format(self, chunk: bytes) -> RawFormat:
        if len(chunk) < 16:
            raise AudioFileError(f"{self.name} is a WAV whose format takes {len(chunk)} bytes, at least 16 are needed")
        tag, channels, sample_rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", chunk[:16])
        if tag == _EXTENSIBLE and len(chunk) >= 26:
            (tag,) = struct.unpack("<H", chunk[24:26])
        coding = _WAV_CODINGS.get((tag, bits))
        if coding is None:
            raise AudioFileError(f"{self.name} is a WAV with format tag {tag} and {bits} bits, which is not read here")
        if frame_bytes != channels * bits // 8 or not 1 <= channels <= _CHANNELS_LIMIT or not 1 <= sample_rate < 10**7:
            raise AudioFileError(
                f"{self.name} is a WAV that claims {channels} channels of {bits} bits in {frame_bytes} bytes "
                f"at {sample_rate} Hz"
            )
        return RawFormat(sample_rate, channels, coding)

    def _take(self, length: int, lacking: str) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise AudioFileError(f"{self.name} is truncated: {lacking}")
        return data

    def _pass_over(self, length: int) -> None:
        while length:
            length -= len(self._take(min(length, _PIECE), "it ends before its audio"))


class RawWriter:
    """Writes bare samples, which leave at once.

    Attributes:
        clipped: Samples outside [-1, 1] so far, which were set to the nearer bound; floats never are.
        samples: Samples so far, per channel.

    Args:
        file: Open for writing; need not be seekable.
        coding: s16le or f32le.
    """

    def __init__(self, file: BinaryIO, coding: str) -> None:
        if coding not in ("s16le", "f32le"):
            raise ValueError(f"raw audio is written as s16le or f32le, not as {coding!r}")
        self._file = file
        self._coding = coding
        self.clipped = 0
        self.samples = 0

    def write(self, audio: Tensor) -> None:
        """Appends `audio`.

        Shape: [C, t].
        """
        samples = audio.T.cpu().numpy()
        self.samples += len(samples)
        if self._coding == "s16le":
            self.clipped += int(np.count_nonzero(np.abs(samples) > 1))
            samples = to_int16(samples)
        self._file.write(samples.astype("<i2" if self._coding == "s16le" else "<f4").tobytes())
        self._file.flush()


def wav_pipe_writer(file: BinaryIO, sample_rate: int, channels: int) -> RawWriter:
    """A writer of 16 bits behind a WAV header that announces no length, written at once.

    Args:
        file: As in `RawWriter`.
        sample_rate: In Hz.
        channels: Number of them.
    """
    rate_bytes, frame_bytes = sample_rate * channels * 2, channels * 2
    format_ = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate, rate_bytes, frame_bytes, 16)
    file.write(struct.pack("<4sI4s", b"RIFF", _UNKNOWN, b"WAVE") + format_ + struct.pack("<4sI", b"data", _UNKNOWN))
    file.flush()
    return RawWriter(file, "s16le")


def _floats(data: bytes, coding: str) -> NDArray[np.float32]:
    """Samples in [-1, 1), floats as they are."""
    if coding == "s24le":
        data = np.pad(np.frombuffer(data, np.uint8).reshape(-1, 3), ((0, 0), (1, 0))).tobytes()
    kind, zero, full_scale = _CODINGS[coding]
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which `AudioReader` refuses
        return ((np.frombuffer(data, kind).astype(np.float64) - zero) / full_scale).astype(np.float32)
