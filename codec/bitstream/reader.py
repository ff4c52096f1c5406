"""Reads encoded files. `codec.bitstream.layout` describes the format."""

import math
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from codec.bitstream.block_coder import BlockCoder, block_coder_for
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.header import BitstreamError, BitstreamHeader
from codec.bitstream.layout import (
    CHECKSUM,
    CODE_BYTES,
    END,
    FIRST_FRAME,
    FRAMES,
    GAIN,
    MAGIC,
    MAX_BLOCK_FRAMES,
    MAX_BYTES_PER_CODE,
    MAX_CODES_PER_BYTE,
    MAX_EXTRA_BYTES,
    MAX_HEADER_BYTES,
    RANDOM_ACCESS,
    START,
    VERSION,
    Block,
    StoredBlock,
    is_gain,
)

__all__ = ["BitstreamReader"]


class _UncheckedBlock(NamedTuple):
    """A block whose checksum has not been compared."""

    first_frame: int  # counted by the reader
    stored_first_frame: int  # stored in the block
    frames: int
    is_random_access: bool
    start: bytes
    body: bytes  # gain and codes
    checksum: bytes


class BitstreamReader:
    """Reads an encoded file block by block, in the memory of its largest block.

    A length in the file is checked against the rest of the file before anything is read. A number of frames is checked
    against the size of its block.

    Attributes:
        header: Read at once.
        coder: Block coder of the header's coding. Set it before `blocks`; None is enough for `fixed`.
        samples: Length of the signal; None until all blocks are read.
        next_frame: Number of the first frame of the next block.

    Args:
        file: Open for reading, at the start of the encoded file. It need not be seekable.
        name: Name of the file in messages.

    Raises:
        BitstreamError: The file has another format or version, is truncated, or is corrupt.
    """

    def __init__(self, file: BinaryIO | ByteSource, name: str) -> None:
        self.name = name
        self._source = file if isinstance(file, ByteSource) else ByteSource(file)
        self.samples: int | None = None
        self.next_frame = 0
        self.coder: BlockCoder | None = None
        # Blocks that were read but not returned, from the last random access point on. None marks the end.
        self._read_ahead: list[_UncheckedBlock | None] = []
        self._frames_read = 0
        self.header = self._read_header()

    def blocks(self) -> Iterator[Block]:
        """Yields the blocks in order. Each is checked before it is yielded, and the end of the file after the last.

        Raises:
            BitstreamError: The file is truncated or corrupt.
            ValueError: The coding of the header needs a `coder`.
        """
        coder = block_coder_for(self.header, self.coder)
        for block in self._checked_blocks():
            if block.is_random_access:
                coder.reset()
            try:
                codes = coder.decode(block.data, block.frames)
            except ValueError as error:
                raise self.corrupt(f"a block of codes cannot be decoded: {error}") from error
            if self._is_next(block):
                yield Block(codes, block.gain, block.size)

    def stored_blocks(self) -> Iterator[StoredBlock]:
        """Like `blocks`, without decoding the codes."""
        return (block for block in self._checked_blocks() if self._is_next(block))

    def seek(self, frame: int) -> int:
        """Skips the blocks that end at or before `frame`, unchecked. Returns the number of the first frame left.

        The blocks since the last random access point are kept, because `blocks` must decode them first.

        Raises:
            BitstreamError: The file is truncated, or the length of a block is impossible.
        """
        while True:
            last = self._read_ahead[-1] if self._read_ahead else self._read_next()
            if last is None or last.first_frame + last.frames > frame:
                break
            self._read_next()
        self.next_frame = self._frames_read if last is None else last.first_frame
        return self.next_frame

    def corrupt(self, reason: str) -> BitstreamError:
        """Returns the error for a file whose content contradicts itself or the codec."""
        return BitstreamError(f"{self.name} is corrupt: {reason}")

    @property
    def bytes_read(self) -> int:
        """Bytes of the file so far, skipped blocks included."""
        return self._source.position

    def _read_header(self) -> BitstreamHeader:
        start = self._source.read(START.size)
        if not start.startswith(MAGIC):
            raise BitstreamError(f"{self.name} is not an encoded file: it does not start with {MAGIC.decode()}")
        version = start[len(MAGIC) : len(MAGIC) + 1]
        if version == b"\0":
            raise BitstreamError(f"{self.name} has the format of the encodec package (ECDC version 0)")
        if version and version[0] != VERSION:
            raise BitstreamError(
                f"{self.name} has version {version[0]} of the format, but this program reads version {VERSION}"
            )
        if len(start) < START.size:
            raise self._truncated()
        length = START.unpack(start)[2]
        if length > MAX_HEADER_BYTES:
            raise self.corrupt(f"its header announces {length} bytes, but the maximum is {MAX_HEADER_BYTES}")
        text = self._take(length)
        self._check(start + text, self._take(CHECKSUM.size), "its header")
        try:
            return BitstreamHeader.from_json(text)
        except ValueError as error:
            raise BitstreamError(f"the header of {self.name} is invalid: {error}") from error

    def _checked_blocks(self) -> Iterator[StoredBlock]:
        """Yields all blocks from the first of those read ahead."""
        while True:
            if not self._read_ahead:
                self._read_next()
            block = self._read_ahead.pop(0)
            if block is None:
                self._read_end()
                return
            yield self._checked(block)

    def _is_next(self, block: StoredBlock) -> bool:
        """Whether to return a block; earlier ones are decoded only because later ones depend on them."""
        if block.first_frame < self.next_frame:
            return False
        self.next_frame = block.first_frame + block.frames
        return True

    def _read_next(self) -> _UncheckedBlock | None:
        """Reads the next block. At a random access point and at the end, earlier blocks are dropped."""
        block = self._read_block()
        if block is None or block.is_random_access:
            self._read_ahead.clear()
        self._read_ahead.append(block)
        self._frames_read += 0 if block is None else block.frames
        return block

    def _read_block(self) -> _UncheckedBlock | None:
        start = self._take(FRAMES.size)
        (frames,) = FRAMES.unpack(start)
        if frames == 0:
            return None
        frames, is_random_access = frames & ~RANDOM_ACCESS, bool(frames & RANDOM_ACCESS)
        start += self._take(CODE_BYTES.size)
        (size,) = CODE_BYTES.unpack(start[FRAMES.size :])
        stored_first_frame = self._frames_read
        if is_random_access:
            first_frame = self._take(FIRST_FRAME.size)
            (stored_first_frame,) = FIRST_FRAME.unpack(first_frame)
            start += first_frame
        codes = frames * self.header.num_codebooks
        is_possible = codes <= MAX_CODES_PER_BYTE * size and size <= MAX_BYTES_PER_CODE * codes + MAX_EXTRA_BYTES
        if not 1 <= frames <= MAX_BLOCK_FRAMES or not is_possible:
            raise self.corrupt(f"a block announces {frames} frames in {size} bytes")
        body = self._take((GAIN.size if self.header.has_gain else 0) + size)
        checksum = self._take(CHECKSUM.size)
        return _UncheckedBlock(self._frames_read, stored_first_frame, frames, is_random_access, start, body, checksum)

    def _checked(self, block: _UncheckedBlock) -> StoredBlock:
        self._check(block.start + block.body, block.checksum, "a block of codes")
        if block.first_frame != block.stored_first_frame:
            raise self.corrupt(f"a block starts with frame {block.first_frame}, not {block.stored_first_frame}")
        if block.first_frame == 0 and not block.is_random_access:
            raise self.corrupt("its first block is not a random access point")
        gain, data = None, block.body
        if self.header.has_gain:
            (gain,) = GAIN.unpack(data[: GAIN.size])
            data = data[GAIN.size :]
            if not is_gain(gain):
                raise self.corrupt(f"a block has the gain {gain}")
        size = len(block.start) + len(block.body) + len(block.checksum)
        return StoredBlock(block.first_frame, block.frames, block.is_random_access, gain, data, size)

    def _read_end(self) -> None:
        end = self._take(END.size)
        self._check(FRAMES.pack(0) + end, self._take(CHECKSUM.size), "its end")
        samples, frames = END.unpack(end)
        if frames != self._frames_read:
            raise self.corrupt(f"its end announces {frames} frames, but it has {self._frames_read}")
        if samples > frames * self.header.hop_samples or (samples == 0) != (frames == 0):
            raise self.corrupt(f"its end announces {samples} samples, which {frames} frames cannot hold")
        if self._source.read(1):
            remaining = self._source.remaining
            raise self.corrupt(f"{'more' if math.isinf(remaining) else f'{remaining + 1:.0f}'} bytes follow its end")
        self.samples = samples

    def _check(self, data: bytes, checksum: bytes, part: str) -> None:
        if CHECKSUM.unpack(checksum)[0] != zlib.crc32(data):
            raise self.corrupt(f"the checksum of {part} is wrong")

    def _take(self, length: int) -> bytes:
        data = self._source.read(length) if length <= self._source.remaining else b""
        if len(data) != length:
            raise self._truncated()
        return data

    def _truncated(self) -> BitstreamError:
        return BitstreamError(f"{self.name} is truncated or corrupt: it ends too early")
