"""Headers of MPEG audio frames, and frames without audio."""

import struct
from typing import NamedTuple

__all__ = ["MpegFormat", "frame_bytes", "parse_header", "silent_frame", "smallest_frame", "xing_frame"]

_LOW_BITRATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_BITRATES = {  # kbit/s, by MPEG-1 and layer
    (True, 1): (*range(0, 449, 32), 0),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    (False, 2): _LOW_BITRATES,
    (False, 3): _LOW_BITRATES,
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}


class MpegFormat(NamedTuple):
    """What all frames of a file share."""

    sample_rate: int
    channels: int
    samples: int  # per frame and channel
    side_bytes: int  # of Layer III
    is_mpeg1: bool
    layer: int


def parse_header(header: int) -> MpegFormat | None:
    """The format that a header states; None if it is no header of a frame with a stated bitrate."""
    version, rate, layer = header >> 19 & 3, header >> 10 & 3, 4 - (header >> 17 & 3)
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or rate == 3:
        return None
    is_mpeg1, channels = version == 3, 1 if header >> 6 & 3 == 3 else 2
    if not _BITRATES[is_mpeg1, layer][header >> 12 & 15]:
        return None
    side_bytes = 0 if layer < 3 else (17, 32)[channels - 1] if is_mpeg1 else (9, 17)[channels - 1]
    samples = 384 if layer == 1 else 576 if layer == 3 and not is_mpeg1 else 1152
    return MpegFormat(_SAMPLE_RATES[version][rate], channels, samples, side_bytes, is_mpeg1, layer)


def frame_bytes(header: int) -> int:
    """Size of the frame with this header."""
    format_ = parse_header(header)
    assert format_ is not None
    slot = 4 if format_.layer == 1 else 1  # bytes of padding
    bits = format_.samples * 1000 * _BITRATES[format_.is_mpeg1, format_.layer][header >> 12 & 15]
    return (bits // (8 * slot * format_.sample_rate) + (header >> 9 & 1)) * slot


def silent_frame(header: int) -> bytes:
    """A frame without audio, and without a checksum or padding."""
    header = (header | 0x10000) & ~0x200
    return struct.pack(">I", header) + bytes(frame_bytes(header) - 4)


def smallest_frame(header: int) -> bytes:
    """A frame without audio, of the lowest bitrate."""
    return silent_frame(header & ~0xF000 | 0x1000)


def xing_frame(header: int, count: int) -> bytes:
    """A frame of Layer III that tells libmpg123 how many frames follow."""
    format_ = parse_header(header)
    assert format_ is not None
    for bitrate in range(1, 15):
        header = (header & ~0xF200) | 0x10000 | bitrate << 12
        if frame_bytes(header) >= 4 + format_.side_bytes + 16:
            break
    start = struct.pack(">I", header) + bytes(format_.side_bytes) + struct.pack(">4sII", b"Xing", 1, count)
    return start.ljust(frame_bytes(header), b"\0")
