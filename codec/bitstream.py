"""The file that holds the codes of an encoded signal (`.ecdc`, version 1).

    magic    4s  b"ECDC"
    version  u8  1 (0 is the format of the encodec package)
    length   u32 of the header
    header   JSON object, UTF-8: the fields of `BitstreamHeader`
    checksum u32 CRC-32 of all the above
    blocks   any number of
        frames   u32, at least 1
        scale    f32, if the header says `scaled`
        codes    codebooks * frames codes of bits_per_code bits, all books of a frame before the next frame, each
                 code's lowest bit first, filling bytes from their lowest bit up; zero bits to a whole byte
        checksum u32 CRC-32 of the block
    end      frames u32 = 0, samples u64, frames of all blocks u64, CRC-32 of these

Numbers are big-endian. The length of the signal stands at the end, so a file can be written and read in one pass, and
one that lost its end is known for it. `coding` names how the codes of a block are stored; `fixed` is the layout above.
"""

import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from codec.bit_packing import pack, unpack
from codec.byte_source import ByteSource

__all__ = ["BitstreamError", "BitstreamHeader", "BitstreamReader", "BitstreamWriter", "Block", "pack", "unpack"]

MAGIC = b"ECDC"
_VERSION = 1
_START = struct.Struct(">4sBI")
_CHECKSUM = struct.Struct(">I")
_FRAMES = struct.Struct(">I")
_SCALE = struct.Struct(">f")
_END = struct.Struct(">QQ")
_HEADER_LIMIT = 1 << 16  # bytes; some 300 are used


class BitstreamError(ValueError):
    """An encoded file cannot be read; the message says what was found, in one sentence."""


class Block(NamedTuple):
    """Codes that are stored together."""

    codes: NDArray[np.int64]  # [K, F]
    scale: float | None  # what to multiply the decoded audio by, if the header says `scaled`


@dataclass(frozen=True)
class BitstreamHeader:
    """What a reader must know before the first block.

    Args:
        model: Fingerprint of the codec, see `Codec.fingerprint`.
        sample_rate: Of the decoded audio in Hz.
        channels: Of the decoded audio.
        codebooks: Codes per frame.
        bits_per_code: 1 to 16.
        hop_samples: Samples per frame.
        scaled: Whether each block has a scale.
        source_sample_rate, source_channels: Of the file that was encoded; they inform and change nothing.
        coding: How the codes of a block are stored.

    Raises:
        ValueError: A value is of the wrong type or out of range; the message names it.
    """

    model: str
    sample_rate: int
    channels: int
    codebooks: int
    bits_per_code: int
    hop_samples: int
    scaled: bool
    source_sample_rate: int
    source_channels: int
    coding: str = "fixed"

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not re.fullmatch("[0-9a-f]{16}", self.model):
            raise ValueError(f"model must be a fingerprint of 16 hex digits, got {str(self.model)[:40]!r}")
        if not isinstance(self.scaled, bool):
            raise ValueError(f"scaled must be true or false, got {str(self.scaled)[:40]!r}")
        limits = {"bits_per_code": 16, "codebooks": 1 << 16}
        for name in ("sample_rate", "channels", "codebooks", "bits_per_code", "hop_samples",
                     "source_sample_rate", "source_channels"):  # fmt: skip
            value, limit = getattr(self, name), limits.get(name, (1 << 32) - 1)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise ValueError(f"{name} must be a whole number from 1 to {limit}, got {str(value)[:40]!r}")
        if self.coding != "fixed":
            raise ValueError(f"coding must be 'fixed', the only one this version knows, got {str(self.coding)[:40]!r}")

    def block_bytes(self, frames: int) -> int:
        """Size of the codes of a block."""
        return -(-frames * self.codebooks * self.bits_per_code // 8)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Inverse of writing the fields as JSON; entries that are no field of this class are passed over.

        Raises:
            ValueError: The text is no JSON object with these fields.
        """
        try:
            values: Any = json.loads(text.decode())
        except RecursionError as error:
            raise ValueError("its JSON is nested too deeply") from error
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        names = [f.name for f in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return cls(**{name: values[name] for name in names})


class BitstreamWriter:
    """Writes an encoded file in one pass; without `finish` it stays incomplete, and readers say so.

    Args:
        file: Open for writing; need not be seekable.
        header: Written at once.
    """

    def __init__(self, file: BinaryIO, header: BitstreamHeader) -> None:
        self.file = file
        self.header = header
        self.frames = 0
        text = json.dumps(asdict(header), separators=(",", ":")).encode()
        self._write(_START.pack(MAGIC, _VERSION, len(text)) + text)

    def write(self, block: Block) -> None:
        """Appends a block of at least one frame.

        Raises:
            ValueError: The block does not fit the header.
        """
        codes, scale = block
        header = self.header
        if codes.ndim != 2 or codes.shape[0] != header.codebooks or not 1 <= codes.shape[1] < 1 << 32:
            raise ValueError(f"expected codes [{header.codebooks}, F] with F > 0, got {list(codes.shape)}")
        if (scale is not None) != header.scaled:
            raise ValueError(f"the header says scaled: {header.scaled}, the block's scale is {scale}")
        self.frames += codes.shape[1]
        prefix = _FRAMES.pack(codes.shape[1]) + (b"" if scale is None else _SCALE.pack(scale))
        self._write(prefix + pack(codes.T.ravel(), header.bits_per_code))

    def finish(self, samples: int) -> None:
        """Marks the end of a signal of so many samples; the decoded one is cut to them."""
        self._write(_FRAMES.pack(0) + _END.pack(samples, self.frames))

    def _write(self, data: bytes) -> None:
        self.file.write(data + _CHECKSUM.pack(zlib.crc32(data)))


class BitstreamReader:
    """Reads an encoded file block by block, in the memory of its largest block.

    No length found in the file is believed beyond what is left of it; of a pipe, beyond what has arrived.

    Attributes:
        header: Read at once.
        samples: Length of the signal, None until `blocks` is exhausted.
        frames: Number of the first frame of the next block.

    Args:
        file: Open for reading, at the start of the encoded file; a pipe, say, need not be seekable. Or its bytes.
        name: What messages call the file.

    Raises:
        BitstreamError: The file is foreign, of another version, truncated or damaged.
    """

    def __init__(self, file: BinaryIO | ByteSource, name: str) -> None:
        self.name = name
        self._bytes = file if isinstance(file, ByteSource) else ByteSource(file)
        self.samples: int | None = None
        self.frames = 0
        self._prefix = b""  # of the next block, if it has been looked at
        self.header = self._read_header()

    def blocks(self) -> Iterator[Block]:
        """The blocks in order; each is checked before it is given out, and the end of the file after the last.

        Raises:
            BitstreamError: The file is truncated or damaged.
        """
        while frames := self._next_frames():
            block = self._read_block(self._prefix, frames)
            self._prefix = b""
            self.frames += frames
            yield block
        self._read_end(self._prefix, self.frames)

    def seek(self, frame: int) -> int:
        """Passes unchecked over the blocks that end at or before `frame`; returns the number of the first frame left.

        Raises:
            BitstreamError: The file is truncated.
        """
        while (frames := self._next_frames()) and self.frames + frames <= frame:
            if not self._bytes.skip(self._block_size(frames) - _FRAMES.size):
                raise self._truncated()
            self._prefix = b""
            self.frames += frames
        return self.frames

    def check_model(self, fingerprint: str) -> None:
        """Raises `BitstreamError` if the file was encoded with another model than that of the `fingerprint`."""
        if self.header.model != fingerprint:
            raise BitstreamError(
                f"{self.name} was encoded with model {self.header.model}, but the model given is {fingerprint}"
            )

    def damaged(self, what: str) -> BitstreamError:
        """An error for what only the decoder can tell."""
        return BitstreamError(f"{self.name} is damaged: {what}")

    @property
    def bytes_read(self) -> int:
        """Of the file so far, those passed over included."""
        return self._bytes.taken

    def _read_header(self) -> BitstreamHeader:
        start = self._bytes.read(_START.size)
        if not start.startswith(MAGIC):
            raise BitstreamError(f"{self.name} is not an encoded file: it does not start with {MAGIC.decode()}")
        if start[4:5] == b"\0":
            raise BitstreamError(f"{self.name} is in the encodec package's own format (ECDC version 0), not read here")
        if start[4:5] not in (bytes([_VERSION]), b""):
            raise BitstreamError(f"{self.name} is an encoded file of version {start[4]}, only {_VERSION} is read here")
        if len(start) < _START.size:
            raise self._truncated()
        length = _START.unpack(start)[2]
        if length > _HEADER_LIMIT:
            raise self.damaged(f"its header claims {length} bytes, at most {_HEADER_LIMIT} are possible")
        text = self._take(length)
        self._check(start + text, "its header")
        try:
            return BitstreamHeader.from_json(text)
        except ValueError as error:
            raise BitstreamError(f"the header of {self.name} is not understood: {error}") from error

    def _next_frames(self) -> int:
        """Of the next block, 0 at the end."""
        self._prefix = self._prefix or self._take(_FRAMES.size)
        return int(_FRAMES.unpack(self._prefix)[0])

    def _block_size(self, frames: int) -> int:
        """Bytes of a block from its number of frames to its checksum."""
        scale = _SCALE.size if self.header.scaled else 0
        return _FRAMES.size + scale + self.header.block_bytes(frames) + _CHECKSUM.size

    def _read_block(self, prefix: bytes, frames: int) -> Block:
        header = self.header
        scale_bytes = self._take(_SCALE.size) if header.scaled else b""
        payload = self._take(header.block_bytes(frames))
        self._check(prefix + scale_bytes + payload, "a block of codes")
        scale = None
        if header.scaled:
            (scale,) = _SCALE.unpack(scale_bytes)
            if not (math.isfinite(scale) and scale > 0):
                raise self.damaged(f"a block has the scale {scale}")
        codes = unpack(payload, header.bits_per_code, frames * header.codebooks)
        return Block(codes.reshape(frames, header.codebooks).T, scale)

    def _read_end(self, prefix: bytes, total: int) -> None:
        end = self._take(_END.size)
        self._check(prefix + end, "its end")
        samples, frames = _END.unpack(end)
        if frames != total:
            raise self.damaged(f"it says it has {frames} frames, but there are {total}")
        if samples > total * self.header.hop_samples or (samples == 0) != (total == 0):
            raise self.damaged(f"it says it has {samples} samples, but its {total} frames hold another number")
        if self._bytes.read(1):
            more = "more" if math.isinf(self._bytes.left) else f"{self._bytes.left + 1:.0f}"
            raise self.damaged(f"{more} bytes follow its end")
        self.samples = samples

    def _check(self, data: bytes, what: str) -> None:
        if _CHECKSUM.unpack(self._take(_CHECKSUM.size))[0] != zlib.crc32(data):
            raise self.damaged(f"the checksum of {what} is wrong")

    def _take(self, length: int) -> bytes:
        data = self._bytes.read(length) if length <= self._bytes.left else b""
        if len(data) != length:
            raise self._truncated()
        return data

    def _truncated(self) -> BitstreamError:
        return BitstreamError(f"{self.name} is truncated or damaged: it ends before its content does")
