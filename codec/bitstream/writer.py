"""Writes encoded files. `codec.bitstream.layout` describes the format."""

import json
import zlib
from dataclasses import asdict
from typing import BinaryIO

from codec.bitstream.block_coder import BlockCoder, block_coder_for
from codec.bitstream.header import BitstreamHeader
from codec.bitstream.layout import (
    CHECKSUM,
    CODE_BYTES,
    END,
    FIRST_FRAME,
    FRAMES,
    GAIN,
    MAGIC,
    MAX_BLOCK_FRAMES,
    RANDOM_ACCESS,
    START,
    VERSION,
    Block,
    is_gain,
)

__all__ = ["BitstreamWriter"]


class BitstreamWriter:
    """Writes an encoded file in one pass. A file without `finish` is incomplete, and readers refuse it.

    Attributes:
        blocks: Number of blocks so far.
        frames: Number of frames so far.
        code_bytes: Bytes of the codes so far.
        file_bytes: Bytes of the file so far.

    Args:
        file: Open for writing; it need not be seekable.
        header: Written at once.
        coder: Block coder of the header's coding; None for `fixed`.
    """

    def __init__(self, file: BinaryIO, header: BitstreamHeader, coder: BlockCoder | None = None) -> None:
        self.file = file
        self.header = header
        self.blocks = 0
        self.frames = 0
        self.code_bytes = 0
        self.file_bytes = 0
        self._coder = block_coder_for(header, coder)
        values = {name: value for name, value in asdict(header).items() if value is not None}
        text = json.dumps(values, separators=(",", ":")).encode()
        self._write(START.pack(MAGIC, VERSION, len(text)) + text)

    def write(self, block: Block) -> None:
        """Appends a block of at least one frame.

        Raises:
            ValueError: The block does not fit the header, has too many frames, or has a gain outside (0, 2^64). Nothing
                is written.
        """
        codes, gain = block.codes, block.gain
        header = self.header
        if codes.ndim != 2 or codes.shape[0] != header.num_codebooks or not 1 <= codes.shape[1] <= MAX_BLOCK_FRAMES:
            raise ValueError(
                f"expected codes [{header.num_codebooks}, F] with F from 1 to {MAX_BLOCK_FRAMES}, "
                f"got {list(codes.shape)}"
            )
        if (gain is not None) != header.has_gain:
            raise ValueError(f"the header has has_gain {header.has_gain}, but the gain of the block is {gain}")
        if gain is not None and not is_gain(gain):
            raise ValueError(f"this audio is too loud to encode: the gain must be above 0 and below 2^64, got {gain:g}")
        is_random_access = self.blocks % header.random_access_interval == 0
        if is_random_access:
            self._coder.reset()
        data = self._coder.encode(codes)
        start = FRAMES.pack(codes.shape[1] | is_random_access * RANDOM_ACCESS) + CODE_BYTES.pack(len(data))
        first = FIRST_FRAME.pack(self.frames) if is_random_access else b""
        self._write(start + first + (b"" if gain is None else GAIN.pack(gain)) + data)
        self.blocks += 1
        self.frames += codes.shape[1]
        self.code_bytes += len(data)

    def finish(self, samples: int) -> None:
        """Writes the end.

        Args:
            samples: Length of the signal. Decoders cut the audio to it.
        """
        self._write(FRAMES.pack(0) + END.pack(samples, self.frames))

    def _write(self, data: bytes) -> None:
        data += CHECKSUM.pack(zlib.crc32(data))
        self.file.write(data)
        self.file_bytes += len(data)
