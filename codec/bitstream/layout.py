"""Layout of an encoded file (.ecdc). Numbers are big-endian.

    magic    4s  b"ECDC"
    version  u8  1 (0 is the format of the encodec package, see `codec.bitstream.encodec`)
    length   u32 bytes of the header
    header   JSON object in UTF-8: the fields of `BitstreamHeader` that are not null
    checksum u32 CRC-32 of everything above
    blocks   any number of
        frames   u16, 1 to 4096; the highest bit marks a random access point
        bytes    u32 bytes of the codes
        first    u64 number of the block's first frame, only at a random access point
        gain     f32, only if the header has `has_gain`; positive and below 2^64
        codes    frames * num_codebooks codes, all codes of a frame before the next frame, stored as `coding` says
        checksum u32 CRC-32 of the block
    end      frames u16 = 0, samples u64, frames of all blocks u64, CRC-32 of these

The length of the signal is stored at the end. So a file can be written and read in one pass, and a missing end is
noticed. The coding `fixed` writes each code with bits_per_code bits, lowest bit first; zero bits fill the last byte.
The other codings learn from earlier codes and forget them at each random access point, so decoding can start there.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHECKSUM", "CODE_BYTES", "END", "FIRST_FRAME", "FRAMES", "GAIN", "MAGIC", "MAX_BLOCK_FRAMES",
           "MAX_BYTES_PER_CODE", "MAX_CODES_PER_BYTE", "MAX_EXTRA_BYTES", "MAX_HEADER_BYTES", "RANDOM_ACCESS", "START",
           "VERSION", "Block", "StoredBlock", "is_gain"]  # fmt: skip

MAGIC = b"ECDC"
VERSION = 1
START = struct.Struct(">4sBI")
CHECKSUM = struct.Struct(">I")
FRAMES = struct.Struct(">H")
RANDOM_ACCESS = 1 << 15  # flag in `frames`
CODE_BYTES = struct.Struct(">I")
FIRST_FRAME = struct.Struct(">Q")
GAIN = struct.Struct(">f")
END = struct.Struct(">QQ")
MAX_HEADER_BYTES = 1 << 16  # about 400 are used
MAX_BLOCK_FRAMES = 1 << 12  # bounds the time and memory that a block takes, however few bytes it has
# A block of n codes takes from n / MAX_CODES_PER_BYTE to n * MAX_BYTES_PER_CODE + MAX_EXTRA_BYTES bytes. Any other
# code count for this size is corrupt. No coding takes less than 1/355 bit for a code
# (`codec.bitstream.entropy.range_coder.symbol_counts`).
MAX_CODES_PER_BYTE = 1 << 12
MAX_BYTES_PER_CODE = 3
MAX_EXTRA_BYTES = 8
_MAX_GAIN = 2.0**64  # a gain is the square root of a float32, which is below 2^128


class Block(NamedTuple):
    """Codes that are stored together."""

    codes: NDArray[np.int64]  # [K, F]
    gain: float | None  # factor for the decoded audio, if the header has `has_gain`
    size: int = 0  # bytes that the block takes in the file it was read from


class StoredBlock(NamedTuple):
    """A block whose codes have not been decoded."""

    first_frame: int
    frames: int
    is_random_access: bool
    gain: float | None
    data: bytes  # the codes
    size: int  # bytes of the whole block


def is_gain(gain: float) -> bool:
    """Whether a block may store this gain: positive and below 2^64, also after rounding to float32."""
    return 0 < gain < _MAX_GAIN and 0 < GAIN.unpack(GAIN.pack(gain))[0] < _MAX_GAIN
