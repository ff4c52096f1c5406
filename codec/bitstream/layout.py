"""How an encoded file (`.ecdc`) is laid out: version 2, which is written, and version 1, which is read as well.

    magic    4s  b"ECDC"
    version  u8  2 (0 is the format of the encodec package)
    length   u32 of the header
    header   JSON object, UTF-8: the fields of `BitstreamHeader`, but those that are null
    checksum u32 CRC-32 of all the above
    blocks   any number of
        frames   u16, 1 to 4096; the highest bit is set in a sync point
        bytes    u32 of the codes
        first    u64 number of the block's first frame, in a sync point only
        scale    f32, if the header says `scaled`; positive and below 2^64
        codes    of frames * codebooks codes, all books of a frame before the next frame, as `coding` says
        checksum u32 CRC-32 of the block
    end      frames u16 = 0, samples u64, frames of all blocks u64, CRC-32 of these

Numbers are big-endian. The length of the signal stands at the end, so a file can be written and read in one pass, and
one that lost its end is known for it. The coding `fixed` gives each code bits_per_code bits, lowest bit first, filling
bytes from their lowest bit up, zero bits to a whole byte. The others learn from the codes before, and start afresh at
each sync point, which can be decoded without anything before it.

Version 1 has `fixed` only; its `frames` is a u32, also at the end, and it has neither `bytes` nor `first`.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BYTES", "BYTES_PER_BLOCK", "BYTES_PER_CODE", "CHECKSUM", "CODES_PER_BYTE", "END", "FIRST", "FRAMES",
           "FRAMES_LIMIT", "HEADER_LIMIT", "MAGIC", "SCALE", "START", "SYNC", "VERSION", "Block", "StoredBlock",
           "is_scale"]  # fmt: skip

MAGIC = b"ECDC"
VERSION = 2
START = struct.Struct(">4sBI")
CHECKSUM = struct.Struct(">I")
FRAMES = {1: struct.Struct(">I"), 2: struct.Struct(">H")}
SYNC = 1 << 15
FRAMES_LIMIT = 1 << 12  # of a block: however few bytes it has, it decodes in bounded time and memory
BYTES = struct.Struct(">I")
FIRST = struct.Struct(">Q")
SCALE = struct.Struct(">f")
END = struct.Struct(">QQ")
HEADER_LIMIT = 1 << 16  # bytes; some 400 are used
# No coding spends less than 1/355 bit on a code (`codec.bitstream.entropy.frequencies`).
# Any other code count for this size is corrupt.
CODES_PER_BYTE = 1 << 12
BYTES_PER_CODE = 3
BYTES_PER_BLOCK = 8
_SCALE_LIMIT = 2.0**64  # what the root of a float32, as a level is, stays below


class Block(NamedTuple):
    """Codes that are stored together."""

    codes: NDArray[np.int64]  # [K, F]
    scale: float | None  # what to multiply the decoded audio by, if the header says `scaled`
    size: int = 0  # bytes in the file that it was read from, all that belongs to it


class StoredBlock(NamedTuple):
    """A block as it stands in the file."""

    first: int  # number of its first frame
    frames: int
    sync: bool  # coded as if nothing had come before
    scale: float | None
    data: bytes  # the codes
    size: int  # bytes of it all


def is_scale(scale: float) -> bool:
    """Whether a block may have this scale, once it is a float32."""
    return 0 < scale < _SCALE_LIMIT and 0 < SCALE.unpack(SCALE.pack(scale))[0] < _SCALE_LIMIT
