"""Tags before and behind audio."""

from typing import BinaryIO

from codec.audio.formats.view import read_at

__all__ = ["audio_end", "id3_bytes"]


def id3_bytes(head: bytes) -> int:
    """Length of the ID3v2 tag that begins with these 10 bytes; 0 if it is none."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)


def audio_end(file: BinaryIO, start: int, file_bytes: int) -> int:
    """Where the tags at the end of a file begin (ID3v1, APEv2, Lyrics3)."""
    end = file_bytes
    while True:
        before = end
        if read_at(file, max(start, end - 128), 3) == b"TAG" and end - 128 >= start:
            end -= 128
        tail = read_at(file, max(start, end - 32), 32)
        if len(tail) == 32 and tail[:8] == b"APETAGEX":
            size = int.from_bytes(tail[12:16], "little") + (32 if tail[23] & 0x80 else 0)
            end = max(start, end - size)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end = max(start, end - int(tail[-15:-9]) - 15)
        if end == before:
            return end
