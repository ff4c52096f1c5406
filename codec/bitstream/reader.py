"""Reads encoded files, whose layout `codec.bitstream.layout` describes."""

import math
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from codec.bitstream.bit_packing import pack, unpack
from codec.bitstream.block_coding import BlockCoding, coding_for
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.header import BitstreamError, BitstreamHeader
from codec.bitstream.layout import (
    BYTES,
    BYTES_PER_BLOCK,
    BYTES_PER_CODE,
    CHECKSUM,
    CODES_PER_BYTE,
    END,
    FIRST,
    FRAMES,
    FRAMES_LIMIT,
    HEADER_LIMIT,
    MAGIC,
    SCALE,
    START,
    SYNC,
    VERSION,
    Block,
    StoredBlock,
    is_scale,
)
from codec.bitstream.writer import BitstreamWriter

__all__ = ["MAGIC", "BitstreamError", "BitstreamHeader", "BitstreamReader", "BitstreamWriter", "Block", "StoredBlock",
           "pack", "unpack"]  # fmt: skip


class _Raw(NamedTuple):
    """A block whose checksum has not been looked at."""

    prefix: bytes
    first: int
    first_said: int  # in the block itself
    frames: int
    sync: bool
    body: bytes  # scale and codes
    checksum: bytes


class BitstreamReader:
    """Reads an encoded file block by block, in the memory of its largest block.

    No length found in the file is believed beyond what is left of it, of a pipe beyond what has arrived, and no number
    of frames beyond what so many bytes can hold.

    Attributes:
        header: Read at once.
        version: Of the layout.
        coding: What decodes the codes, to be set before they are read; None will do for `fixed`.
        samples: Length of the signal, None until the blocks are exhausted.
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
        self.version = VERSION
        self.coding: BlockCoding | None = None
        self._ahead: list[_Raw | None] = []  # read and not given out; None is the end
        self._next = 0  # number of the first frame after it
        self.header = self._read_header()

    def blocks(self) -> Iterator[Block]:
        """The blocks in order; each is checked before it is given out, and the end of the file after the last.

        Raises:
            BitstreamError: The file is truncated or damaged.
            ValueError: The header names a coding that needs `coding`.
        """
        coding = coding_for(self.header, self.coding)
        for block in self._stored_blocks():
            if block.sync:
                coding.reset()
            try:
                codes = coding.decode(block.data, block.frames)
            except ValueError as error:
                raise self.damaged(f"a block of codes does not decode: {error}") from error
            if self._passed(block):
                yield Block(codes, block.scale, block.size)

    def stored_blocks(self) -> Iterator[StoredBlock]:
        """As `blocks`, without decoding the codes."""
        return (block for block in self._stored_blocks() if self._passed(block))

    def seek(self, frame: int) -> int:
        """Passes unchecked over the blocks that end at or before `frame`; returns the number of the first frame left.

        Those from the last sync point on are kept: `blocks` needs them to decode what follows.

        Raises:
            BitstreamError: The file is truncated, or the claims of a block cannot be true.
        """
        while True:
            last = self._ahead[-1] if self._ahead else self._read_ahead()
            if last is None or last.first + last.frames > frame:
                break
            self._read_ahead()
        self.frames = self._next if last is None else last.first
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
        start = self._bytes.read(START.size)
        if not start.startswith(MAGIC):
            raise BitstreamError(f"{self.name} is not an encoded file: it does not start with {MAGIC.decode()}")
        if start[4:5] == b"\0":
            raise BitstreamError(f"{self.name} is in the encodec package's own format (ECDC version 0), not read here")
        if start[4:5] != b"" and start[4] not in FRAMES:
            known = " and ".join(map(str, FRAMES))
            raise BitstreamError(f"{self.name} is an encoded file of version {start[4]}, only {known} are read here")
        if len(start) < START.size:
            raise self._truncated()
        _, self.version, length = START.unpack(start)
        if length > HEADER_LIMIT:
            raise self.damaged(f"its header claims {length} bytes, at most {HEADER_LIMIT} are possible")
        text = self._take(length)
        self._check(start + text, self._take(CHECKSUM.size), "its header")
        try:
            return BitstreamHeader.from_json(text)
        except ValueError as error:
            raise BitstreamError(f"the header of {self.name} is not understood: {error}") from error

    def _stored_blocks(self) -> Iterator[StoredBlock]:
        """From the first of those that were read ahead."""
        while True:
            if not self._ahead:
                self._read_ahead()
            raw = self._ahead.pop(0)
            if raw is None:
                self._read_end()
                return
            yield self._verified(raw)

    def _passed(self, block: StoredBlock) -> bool:
        """Whether a block is to be given out, not only to be learnt from."""
        if block.first < self.frames:
            return False
        self.frames = block.first + block.frames
        return True

    def _read_ahead(self) -> _Raw | None:
        """The next block, None at the end; no block before a sync point is needed any more."""
        raw = self._read_raw()
        if raw is None or raw.sync:
            self._ahead.clear()
        self._ahead.append(raw)
        self._next += 0 if raw is None else raw.frames
        return raw

    def _read_raw(self) -> _Raw | None:
        header, layout, said = self.header, FRAMES[self.version], self._next
        prefix = self._take(layout.size)
        frames, sync = layout.unpack(prefix)[0], True
        if frames == 0:
            return None
        size = header.block_bytes(frames)
        if self.version > 1:
            frames, sync = frames & ~SYNC, bool(frames & SYNC)
            prefix += self._take(BYTES.size)
            (size,) = BYTES.unpack(prefix[-BYTES.size :])
            if sync:
                prefix += self._take(FIRST.size)
                (said,) = FIRST.unpack(prefix[-FIRST.size :])
            codes = frames * header.codebooks
            possible = codes <= CODES_PER_BYTE * size and size <= BYTES_PER_CODE * codes + BYTES_PER_BLOCK
            if not 1 <= frames <= FRAMES_LIMIT or not possible:
                raise self.damaged(f"a block claims {frames} frames in {size} bytes")
        body = self._take((SCALE.size if header.scaled else 0) + size)
        return _Raw(prefix, self._next, said, frames, sync, body, self._take(CHECKSUM.size))

    def _verified(self, raw: _Raw) -> StoredBlock:
        self._check(raw.prefix + raw.body, raw.checksum, "a block of codes")
        if raw.first != raw.first_said:
            raise self.damaged(f"a block says it starts with frame {raw.first_said}, but that is number {raw.first}")
        if raw.first == 0 and not raw.sync:
            raise self.damaged("its first block is no sync point")
        size = len(raw.prefix) + len(raw.body) + len(raw.checksum)
        if not self.header.scaled:
            return StoredBlock(raw.first, raw.frames, raw.sync, None, raw.body, size)
        (scale,) = SCALE.unpack(raw.body[: SCALE.size])
        if not is_scale(scale):
            raise self.damaged(f"a block has the scale {scale}")
        return StoredBlock(raw.first, raw.frames, raw.sync, scale, raw.body[SCALE.size :], size)

    def _read_end(self) -> None:
        end = self._take(END.size)
        self._check(FRAMES[self.version].pack(0) + end, self._take(CHECKSUM.size), "its end")
        samples, frames = END.unpack(end)
        if frames != self._next:
            raise self.damaged(f"it says it has {frames} frames, but there are {self._next}")
        if samples > frames * self.header.hop_samples or (samples == 0) != (frames == 0):
            raise self.damaged(f"it says it has {samples} samples, but its {frames} frames hold another number")
        if self._bytes.read(1):
            more = "more" if math.isinf(self._bytes.left) else f"{self._bytes.left + 1:.0f}"
            raise self.damaged(f"{more} bytes follow its end")
        self.samples = samples

    def _check(self, data: bytes, checksum: bytes, what: str) -> None:
        if CHECKSUM.unpack(checksum)[0] != zlib.crc32(data):
            raise self.damaged(f"the checksum of {what} is wrong")

    def _take(self, length: int) -> bytes:
        data = self._bytes.read(length) if length <= self._bytes.left else b""
        if len(data) != length:
            raise self._truncated()
        return data

    def _truncated(self) -> BitstreamError:
        return BitstreamError(f"{self.name} is truncated or damaged: it ends before its content does")
