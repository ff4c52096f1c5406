"""The file that holds the codes of an encoded signal (`.ecdc`, version 2; version 1 is read as well).

    magic    4s  b"ECDC"
    version  u8  2 (0 is the format of the encodec package)
    length   u32 of the header
    header   JSON object, UTF-8: the fields of `BitstreamHeader`
    checksum u32 CRC-32 of all the above
    blocks   any number of
        frames   u16, at least 1; the highest bit is set in a sync point
        bytes    u32 of the codes
        first    u64 number of the block's first frame, in a sync point only
        scale    f32, if the header says `scaled`
        codes    of codebooks * frames codes, all books of a frame before the next frame, as `coding` says
        checksum u32 CRC-32 of the block
    end      frames u16 = 0, samples u64, frames of all blocks u64, CRC-32 of these

Numbers are big-endian. The length of the signal stands at the end, so a file can be written and read in one pass, and
one that lost its end is known for it. The coding `fixed` takes bits_per_code bits for each code, lowest bit first,
filling bytes from their lowest bit up, zero bits to a whole byte. Codings that learn from the codes before start afresh
at each sync point, which can be decoded without anything before it, and found by its checksum even where a length is
damaged.

Version 1 knows `fixed` only; there `frames` is a u32, also at the end, and `bytes` and `first` are missing.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bitstream_header import BitstreamError, BitstreamHeader
from codec.block_coding import BlockCoding, FixedCoding
from codec.packing import pack, unpack

__all__ = ["BitstreamError", "BitstreamHeader", "BitstreamReader", "BitstreamWriter", "Block", "StoredBlock", "pack",
           "unpack"]  # fmt: skip

MAGIC = b"ECDC"
FRAMES_LIMIT = (1 << 15) - 1  # of a block
_VERSION = 2
_START = struct.Struct(">4sBI")
_CHECKSUM = struct.Struct(">I")
_FRAMES = {1: struct.Struct(">I"), 2: struct.Struct(">H")}
_SYNC = 1 << 15
_BYTES = struct.Struct(">I")
_FIRST = struct.Struct(">Q")
_SCALE = struct.Struct(">f")
_END = struct.Struct(">QQ")
_HEADER_LIMIT = 1 << 16  # bytes; some 300 are used
# No coding spends less than 1/362 bit on a code (`codec.entropy.frequencies`): more codes than this are a lie.
_CODES_PER_BYTE = 1 << 12


class Block(NamedTuple):
    """Codes that are stored together."""

    codes: NDArray[np.int64]  # [K, F]
    scale: float | None  # what to multiply the decoded audio by, if the header says `scaled`


class StoredBlock(NamedTuple):
    """A block as it stands in the file, its checksum verified."""

    first: int  # number of its first frame
    frames: int
    sync: bool  # coded as if nothing had come before
    scale: float | None
    data: bytes  # the codes


class _Prefix(NamedTuple):
    raw: bytes
    frames: int
    sync: bool
    first: int
    size: int


class BitstreamWriter:
    """Writes an encoded file in one pass; without `finish` it stays incomplete, and readers say so.

    Args:
        file: Open for writing; need not be seekable.
        header: Written at once.
        coding: What the header names; None for `fixed`.
    """

    def __init__(self, file: BinaryIO, header: BitstreamHeader, coding: BlockCoding | None = None) -> None:
        self.file = file
        self.header = header
        self.frames = 0
        self._coding = _coding_of(header, coding)
        self._blocks = 0
        text = json.dumps(asdict(header), separators=(",", ":")).encode()
        self._write(_START.pack(MAGIC, _VERSION, len(text)) + text)

    def write(self, block: Block) -> None:
        """Appends a block of at least one frame.

        Raises:
            ValueError: The block does not fit the header, or has more frames than a block can hold.
        """
        codes, scale = block
        header = self.header
        if codes.ndim != 2 or codes.shape[0] != header.codebooks or not 1 <= codes.shape[1] <= FRAMES_LIMIT:
            raise ValueError(
                f"expected codes [{header.codebooks}, F] with F > 0 and at most {FRAMES_LIMIT}, got {list(codes.shape)}"
            )
        if (scale is not None) != header.scaled:
            raise ValueError(f"the header says scaled: {header.scaled}, the block's scale is {scale}")
        sync = self._blocks % header.sync_blocks == 0
        if sync:
            self._coding.reset()
        data = self._coding.encode(codes)
        prefix = _FRAMES[_VERSION].pack(codes.shape[1] | sync * _SYNC) + _BYTES.pack(len(data))
        prefix += _FIRST.pack(self.frames) if sync else b""
        self._write(prefix + (b"" if scale is None else _SCALE.pack(scale)) + data)
        self.frames += codes.shape[1]
        self._blocks += 1

    def finish(self, samples: int) -> None:
        """Marks the end of a signal of so many samples; the decoded one is cut to them."""
        self._write(_FRAMES[_VERSION].pack(0) + _END.pack(samples, self.frames))

    def _write(self, data: bytes) -> None:
        self.file.write(data + _CHECKSUM.pack(zlib.crc32(data)))


class BitstreamReader:
    """Reads an encoded file block by block, in the memory of its largest block.

    No length found in the file is believed beyond what is left of it, and no number of frames beyond what so many
    bytes can hold.

    Attributes:
        header: Read at once.
        version: Of the file's layout.
        samples: Length of the signal, None until the blocks are exhausted.

    Args:
        file: Open for reading, seekable, at the start of the encoded file.
        name: What messages call the file.

    Raises:
        BitstreamError: The file is foreign, of another version, truncated or damaged.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        start = file.tell()
        self._left = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        self.samples: int | None = None
        self.version = _VERSION
        self.header = self._read_header()
        self._frame = 0  # number of the next frame
        self._block = self._place()  # where the last block that was looked at starts

    def blocks(self, coding: BlockCoding | None = None) -> Iterator[Block]:
        """The blocks from here in order, each checked before it is given out; at the end, the end is checked.

        Args:
            coding: What the header names; None for `fixed`.

        Raises:
            BitstreamError: The file is truncated or damaged.
            ValueError: The header names a coding that is not given.
        """
        coding = _coding_of(self.header, coding)
        for block in self.stored_blocks():
            if block.sync:
                coding.reset()
            try:
                codes = coding.decode(block.data, block.frames)
            except ValueError as error:
                raise self.damaged(f"a block of codes does not decode: {error}") from error
            yield Block(codes, block.scale)

    def stored_blocks(self) -> Iterator[StoredBlock]:
        """As `blocks`, but without decoding the codes."""
        while (block := self._read_block()) is not None:
            yield block

    def seek(self, frame: int) -> int:
        """Goes forward to the last sync point at or before a frame, without reading the codes it passes.

        Returns:
            The number of the frame that the next block starts with: that of the last sync point if the file ends
            before `frame`, and where the reader stands if that is later.

        Raises:
            BitstreamError: The file is truncated or damaged.
        """
        found = self._place()
        while self._frame <= frame and (prefix := self._read_prefix()) is not None:
            if prefix.sync:
                found = self._place(-len(prefix.raw))
            self._skip((_SCALE.size if self.header.scaled else 0) + prefix.size + _CHECKSUM.size)
            self._frame += prefix.frames
        self._go(found)
        return self._frame

    def recover(self) -> int | None:
        """After a `BitstreamError` about a block: goes to the next sync point that is sound, wherever it lies.

        Returns:
            The number of its first frame, or None if there is none.
        """
        offset, left, _ = self._block
        while left > 1:
            offset, left = offset + 1, left - 1
            self._go((offset, left, 0))
            try:
                prefix = self._read_prefix()
                if prefix is None or not prefix.sync:
                    continue
                place = offset, left, prefix.first
                self._go(place)
                self._read_block()
            except BitstreamError:
                continue
            self._go(place)
            return prefix.first
        return None

    def check_model(self, fingerprint: str) -> None:
        """Raises `BitstreamError` if the file was encoded with another model than that of the `fingerprint`."""
        if self.header.model != fingerprint:
            raise BitstreamError(
                f"{self.name} was encoded with model {self.header.model}, but the model given is {fingerprint}"
            )

    def damaged(self, what: str) -> BitstreamError:
        """An error for what only the decoder can tell."""
        return BitstreamError(f"{self.name} is damaged: {what}")

    def _read_header(self) -> BitstreamHeader:
        start = self.file.read(min(_START.size, self._left))
        if not start.startswith(MAGIC):
            raise BitstreamError(f"{self.name} is not an encoded file: it does not start with {MAGIC.decode()}")
        if start[4:5] == b"\0":
            raise BitstreamError(f"{self.name} is in the encodec package's own format (ECDC version 0), not read here")
        if start[4:5] != b"" and start[4] not in _FRAMES:
            raise BitstreamError(
                f"{self.name} is an encoded file of version {start[4]}, only {' and '.join(map(str, _FRAMES))} "
                "are read here"
            )
        self._left -= len(start)
        if len(start) < _START.size:
            raise self._truncated()
        _, self.version, length = _START.unpack(start)
        if length > _HEADER_LIMIT:
            raise self.damaged(f"its header claims {length} bytes, at most {_HEADER_LIMIT} are possible")
        text = self._take(length)
        self._check(start + text, "its header")
        try:
            return BitstreamHeader.from_json(text)
        except ValueError as error:
            raise BitstreamError(f"the header of {self.name} is not understood: {error}") from error

    def _read_prefix(self) -> _Prefix | None:
        """What a block says of itself before its codes; None for the end of the file, which is read and checked."""
        layout = _FRAMES[self.version]
        raw = self._take(layout.size)
        (frames,) = layout.unpack(raw)
        if frames == 0:
            self._read_end(raw)
            return None
        if self.version == 1:
            return _Prefix(raw, frames, True, self._frame, self.header.block_bytes(frames))
        frames, sync = frames & ~_SYNC, bool(frames & _SYNC)
        raw += self._take(_BYTES.size)
        (size,) = _BYTES.unpack(raw[-_BYTES.size :])
        first = self._frame
        if sync:
            raw += self._take(_FIRST.size)
            (first,) = _FIRST.unpack(raw[-_FIRST.size :])
        if not 1 <= frames * self.header.codebooks <= _CODES_PER_BYTE * (size + 1):
            raise self.damaged(f"a block claims {frames} frames in {size} bytes")
        return _Prefix(raw, frames, sync, first, size)

    def _read_block(self) -> StoredBlock | None:
        self._block = self._place()
        prefix = self._read_prefix()
        if prefix is None:
            return None
        scale_bytes = self._take(_SCALE.size) if self.header.scaled else b""
        data = self._take(prefix.size)
        self._check(prefix.raw + scale_bytes + data, "a block of codes")
        if prefix.first != self._frame:
            raise self.damaged(f"a block says it starts with frame {prefix.first}, but it follows frame {self._frame}")
        scale = None
        if self.header.scaled:
            (scale,) = _SCALE.unpack(scale_bytes)
            if not (math.isfinite(scale) and scale > 0):
                raise self.damaged(f"a block has the scale {scale}")
        self._frame += prefix.frames
        return StoredBlock(prefix.first, prefix.frames, prefix.sync, scale, data)

    def _read_end(self, prefix: bytes) -> None:
        end = self._take(_END.size)
        self._check(prefix + end, "its end")
        samples, frames = _END.unpack(end)
        if frames != self._frame:
            raise self.damaged(f"it says it has {frames} frames, but there are {self._frame}")
        if samples > frames * self.header.hop_samples or (samples == 0) != (frames == 0):
            raise self.damaged(f"it says it has {samples} samples, but its {frames} frames hold another number")
        if self._left:
            raise self.damaged(f"{self._left} bytes follow its end")
        self.samples = samples

    def _check(self, data: bytes, what: str) -> None:
        if _CHECKSUM.unpack(self._take(_CHECKSUM.size))[0] != zlib.crc32(data):
            raise self.damaged(f"the checksum of {what} is wrong")

    def _take(self, length: int) -> bytes:
        if length > self._left:
            raise self._truncated()
        data = self.file.read(length)
        self._left -= length
        if len(data) != length:
            raise self._truncated()
        return data

    def _skip(self, length: int) -> None:
        if length > self._left:
            raise self._truncated()
        self.file.seek(length, os.SEEK_CUR)
        self._left -= length

    def _place(self, by: int = 0) -> tuple[int, int, int]:
        """Offset in the file, bytes from there to its end, number of the next frame."""
        return self.file.tell() + by, self._left - by, self._frame

    def _go(self, place: tuple[int, int, int]) -> None:
        offset, self._left, self._frame = place
        self.file.seek(offset)

    def _truncated(self) -> BitstreamError:
        return BitstreamError(f"{self.name} is truncated or damaged: it ends before its content does")


def _coding_of(header: BitstreamHeader, coding: BlockCoding | None) -> BlockCoding:
    if coding is not None:
        return coding
    if header.coding != "fixed":
        raise ValueError(f"codes in the coding {header.coding} need a coder, none was given")
    return FixedCoding(header)
