"""Writes encoded files."""

import json
import zlib
from dataclasses import asdict
from typing import BinaryIO

from codec.bitstream.block_coding import BlockCoding, coding_for
from codec.bitstream.header import BitstreamHeader
from codec.bitstream.layout import (
    BYTES,
    CHECKSUM,
    END,
    FIRST,
    FRAMES,
    FRAMES_LIMIT,
    MAGIC,
    SCALE,
    START,
    SYNC,
    VERSION,
    Block,
    is_scale,
)

__all__ = ["BitstreamWriter"]


class BitstreamWriter:
    """Writes an encoded file in one pass; without `finish` it stays incomplete, and readers say so.

    Attributes:
        blocks: Written so far.
        frames: Of all of them.
        code_bytes: What their codes take.

    Args:
        file: Open for writing; need not be seekable.
        header: Written at once.
        coding: What the header names; None for `fixed`.
    """

    def __init__(self, file: BinaryIO, header: BitstreamHeader, coding: BlockCoding | None = None) -> None:
        self.file = file
        self.header = header
        self.frames = 0
        self.code_bytes = 0
        self._coding = coding_for(header, coding)
        self.blocks = 0
        values = {name: value for name, value in asdict(header).items() if value is not None}
        text = json.dumps(values, separators=(",", ":")).encode()
        self._write(START.pack(MAGIC, VERSION, len(text)) + text)

    def write(self, block: Block) -> None:
        """Appends a block of at least one frame.

        Raises:
            ValueError: The block does not fit the header, has more frames than a block can hold, or a scale that does
                not decode, as that of audio whose squares overflow. Nothing of it is written.
        """
        codes, scale = block.codes, block.scale
        header = self.header
        if codes.ndim != 2 or codes.shape[0] != header.codebooks or not 1 <= codes.shape[1] <= FRAMES_LIMIT:
            raise ValueError(
                f"expected codes [{header.codebooks}, F] with F from 1 to {FRAMES_LIMIT}, got {list(codes.shape)}"
            )
        if (scale is not None) != header.scaled:
            raise ValueError(f"the header says scaled: {header.scaled}, the block's scale is {scale}")
        if scale is not None and not is_scale(scale):
            raise ValueError(f"audio so loud cannot be encoded: a block has the scale {scale:g}, below 2^64 it decodes")
        sync = self.blocks % header.sync_blocks == 0
        if sync:
            self._coding.reset()
        data = self._coding.encode(codes)
        prefix = FRAMES[VERSION].pack(codes.shape[1] | sync * SYNC) + BYTES.pack(len(data))
        prefix += FIRST.pack(self.frames) if sync else b""
        self._write(prefix + (b"" if scale is None else SCALE.pack(scale)) + data)
        self.frames += codes.shape[1]
        self.code_bytes += len(data)
        self.blocks += 1

    def finish(self, samples: int) -> None:
        """Marks the end of a signal of so many samples; the decoded one is cut to them."""
        self._write(FRAMES[VERSION].pack(0) + END.pack(samples, self.frames))

    def _write(self, data: bytes) -> None:
        self.file.write(data + CHECKSUM.pack(zlib.crc32(data)))
