"""Headers of MPEG audio frames of Layer III, and frames without audio."""

import struct
from typing import NamedTuple

__all__ = ["MpegFormat", "frame_bytes", "parse_header", "silent_frame", "xing_frame"]

_BITRATES = {  # kbit/s
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}


class MpegFormat(NamedTuple):
    """What all frames of a file share."""

    sample_rate: int
    channels: int
    samples: int  # per frame and channel
    side_bytes: int
    is_mpeg1: bool


def parse_header(header: int) -> MpegFormat | None:
    """The format that a header states; None if it is no header of Layer III with a stated bitrate."""
    version, rate = header >> 19 & 3, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or header >> 17 & 3 != 1 or rate == 3:
        return None
    is_mpeg1, channels = version == 3, 1 if header >> 6 & 3 == 3 else 2
    if not _BITRATES[is_mpeg1][header >> 12 & 15]:
        return None
    side_bytes = (17, 32)[channels - 1] if is_mpeg1 else (9, 17)[channels - 1]
    return MpegFormat(_SAMPLE_RATES[version][rate], channels, 1152 if is_mpeg1 else 576, side_bytes, is_mpeg1)


def frame_bytes(header: int) -> int:
    is_mpeg1 = header >> 19 & 3 == 3
    sample_rate = _SAMPLE_RATES[header >> 19 & 3][header >> 10 & 3]
    return (144 if is_mpeg1 else 72) * 1000 * _BITRATES[is_mpeg1][header >> 12 & 15] // sample_rate + (header >> 9 & 1)


def silent_frame(header: int) -> bytes:
    """A frame without audio, and without a checksum or padding."""
    header = (header | 0x10000) & ~0x200
    return struct.pack(">I", header) + bytes(frame_bytes(header) - 4)


def xing_frame(header: int, count: int) -> bytes:
    """A frame that tells libmpg123 how many frames follow."""
    format_ = parse_header(header)
    assert format_ is not None
    for bitrate in range(1, 15):
        header = (header & ~0xF200) | 0x10000 | bitrate << 12
        if frame_bytes(header) >= 4 + format_.side_bytes + 16:
            break
    start = struct.pack(">I", header) + bytes(format_.side_bytes) + struct.pack(">4sII", b"Xing", 1, count)
    return start.ljust(frame_bytes(header), b"\0")
