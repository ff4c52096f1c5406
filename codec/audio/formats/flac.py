"""The last frame of a FLAC file (RFC 9639), which tells how many samples the file has.

The header states a number that is 0 if the file was written to a pipe, and too large if the file was cut.
"""

import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.audio.formats.tags import audio_end
from codec.audio.formats.view import Finding, View, read_at

__all__ = ["inspect_flac"]

_TAIL_BYTES = 1 << 16  # searched for the last frame, at least
_MAX_TAIL_BYTES = 1 << 21
_CRC_BLOCK = 64
_BLOCK_SIZES = {1: 192} | {n: 576 << n - 2 for n in range(2, 6)} | {n: 256 << n - 8 for n in range(8, 16)}


def _crc_table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> bits - 1 else 0)
        table.append(value & (1 << bits) - 1)
    return table


class _Frame(NamedTuple):
    start: int  # in the tail
    first: int  # number of its first sample
    samples: int


class _StreamInfo(NamedTuple):
    max_block: int
    max_frame_bytes: int
    channels: int
    total: int


def inspect_flac(file: BinaryIO, start: int, file_bytes: int) -> Finding | None:
    """Finds the number of samples of a file. None if it is no FLAC.

    Args:
        file: Seekable.
        start: Of the header, which may follow an ID3 tag.
        file_bytes: Size of the file.
    """
    head = read_at(file, start, 42)
    if head[:4] != b"fLaC" or len(head) < 42 or head[4] & 0x7F:
        return None
    packed = int.from_bytes(head[18:26], "big")
    info = _StreamInfo(
        int.from_bytes(head[10:12], "big"),
        int.from_bytes(head[15:18], "big"),
        (packed >> 41 & 7) + 1,
        packed & (1 << 36) - 1,
    )
    end = audio_end(file, start, file_bytes)
    tail_bytes = min(_MAX_TAIL_BYTES, max(_TAIL_BYTES, 3 * info.max_frame_bytes))
    first = max(start + 42, end - tail_bytes)
    total, last = _end_of_audio(read_at(file, first, end - first), info)
    if total in (None, info.total):
        return Finding()
    stop = end if last is None else first + last
    right = head[:18] + struct.pack(">Q", packed >> 36 << 36 | total)
    notes = [] if last is None else [f"The end of the stream is missing: it ends after {total} samples"]
    if notes:
        notes[0] += f", its header states {info.total}." if info.total else ", within a frame."
    elif info.total > total:
        notes = [f"The audio has {total} samples, its header states {info.total}."]
    return Finding([View(file, [right, (start + 26, stop)])], notes)


def _end_of_audio(tail: bytes, info: _StreamInfo) -> tuple[int, int | None] | tuple[None, None]:
    """Number of samples up to the last whole frame, and where an incomplete frame begins that must be cut off."""
    frames: list[_Frame] = []  # from the last to the first
    position = len(tail)
    while (position := tail.rfind(b"\xff", 0, position)) >= 0:
        frame = _parse_frame(tail, position, info)
        if frame is None:
            continue
        frames.append(frame)
        if len(frames) == 1 and _crc16(tail[position:]) == 0:  # the usual file
            return frame.first + frame.samples, None
    for index, frame in enumerate(frames):
        if _crc16(tail[frame.start :]) == 0:
            return frame.first + frame.samples, None
        # Frames that follow each other prove that both are frames, not bytes that look like a header.
        for before in frames[index + 1 :]:
            if before.first + before.samples == frame.first and _crc16(tail[before.start : frame.start]) == 0:
                return frame.first, frame.start
    return None, None


def _parse_frame(data: bytes, position: int, info: _StreamInfo) -> _Frame | None:
    head = data[position : position + 16]
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1:
        return None
    assignment = head[3] >> 4
    if (assignment + 1 if assignment < 8 else 2) != info.channels or assignment > 10:
        return None
    number, length = _coded_number(head[4:])
    used = 4 + length
    size_code, rate_code = head[2] >> 4, head[2] & 15
    size_bytes, rate_bytes = {6: 1, 7: 2}.get(size_code, 0), {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if not length or len(head) <= used + size_bytes + rate_bytes:
        return None
    samples = _BLOCK_SIZES.get(size_code) or int.from_bytes(head[used : used + size_bytes], "big") + 1
    crc = 0
    for byte in head[: used + size_bytes + rate_bytes + 1]:
        crc = _CRC8[crc ^ byte]
    first = number if head[1] & 1 else number * info.max_block
    return None if crc else _Frame(position, first, samples)


def _coded_number(data: bytes) -> tuple[int, int]:
    """A number coded as UTF-8 codes characters, with up to 7 bytes, and the bytes it takes; 0 bytes if it is none."""
    if data[0] < 0x80:
        return data[0], 1
    length = next((n for n in range(2, 8) if data[0] >> 7 - n == (1 << n + 1) - 2), 0)
    if len(data) < length or any(byte >> 6 != 2 for byte in data[1:length]):
        return 0, 0
    number = data[0] & (1 << max(0, 6 - length + 1)) - 1
    for byte in data[1:length]:
        number = number << 6 | byte & 0x3F
    return number, length


def _crc16_tables() -> NDArray[np.uint16]:
    """CRC of a byte that _CRC_BLOCK - 1 - k bytes follow, for each k. Shape: -> [_CRC_BLOCK, 256]."""
    tables = [np.array(_crc_table(0x18005, 16), np.uint16)]
    while len(tables) < _CRC_BLOCK:
        tables.append((tables[-1] << 8) ^ tables[0][tables[-1] >> 8])
    return np.stack(tables[::-1])


def _crc16(data: bytes) -> int:
    """CRC with which frames end; 0 for a whole frame. Blocks of bytes are looked up at once."""
    padded = np.frombuffer(bytes(-len(data) % _CRC_BLOCK) + data, np.uint8).reshape(-1, _CRC_BLOCK)
    blocks = np.bitwise_xor.reduce(_CRC16[np.arange(_CRC_BLOCK), padded], axis=1)
    crc = 0
    for block in blocks.tolist():
        crc = int(_CRC16[0, crc >> 8]) ^ int(_CRC16[1, crc & 0xFF]) ^ block
    return crc


_CRC8, _CRC16 = _crc_table(0x107, 8), _crc16_tables()
