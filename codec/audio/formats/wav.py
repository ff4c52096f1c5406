"""Headers of WAV, RF64 and BW64 (Microsoft and IBM 1991; EBU Tech 3306; ITU-R BS.2088), for files and pipes.

A program that writes WAV to a pipe, or that was stopped, leaves the length 0 or a number from 0x7FFFF000 on in the
header. The audio then goes on to the end of the file.
"""

import re
import struct
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, Protocol

from codec.audio.formats.view import Finding, View, read_at

__all__ = ["TRAILER", "TRAILER_BYTES", "Readable", "WavHeader", "end_notes", "inspect_wav", "partial_sample_note",
           "read_wav_header"]  # fmt: skip

# By the format tag and the bytes of a sample.
_ENCODINGS = {(1, 1): "u8", (1, 2): "s16le", (1, 3): "s24le", (1, 4): "s32le", (3, 4): "f32le", (3, 8): "f64le"}
_EXTENSIBLE = 0xFFFE  # the tag then stands at byte 24 of a longer format chunk
_UNKNOWN = 0xFFFFFFFF
_UNKNOWN_FROM = 0x7FFFF000  # nearly 2 GiB; SoX and others write such a length if they do not know it
_MAX_FORMAT_BYTES = 1 << 16  # of a format chunk, of which 40 are used
_PIECE = 1 << 16
# The bits of a channel mask in their order.
_SPEAKERS = ["FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC",
             "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"]  # fmt: skip
# A chunk of text behind audio of unknown length. 8 given bytes do not occur in audio by chance.
TRAILER = re.compile(rb"LIST.{4}(?:INFO|adtl)|id3 .{4}ID3", re.DOTALL)
TRAILER_BYTES = 12


class Readable(Protocol):
    """Anything with `read`, also a pipe."""

    def read(self, size: int, /) -> bytes: ...


class WavHeader(NamedTuple):
    """What a WAV states before its audio."""

    sample_rate: int
    channels: int
    encoding: str | None  # of `RawFormat`; None for codings that libsndfile must decode
    frame_bytes: int  # of one sample of every channel, if there is an encoding
    layout: tuple[str, ...] | None  # of the channel mask
    format_chunk: bytes
    is_misread: bool  # libsndfile needs another header with `format_chunk` to read the samples
    start: int  # of the audio, counted from the start of the header
    size: int | None  # bytes of audio; None if unknown
    is_exact: bool  # fewer bytes than `size` mean that audio is missing


def read_wav_header(file: Readable) -> WavHeader | None:
    """Reads to the first byte of audio. None if this is no WAV with a format chunk before its audio."""
    start = file.read(12)
    if start[:4] not in (b"RIFF", b"RF64", b"BW64") or start[8:] != b"WAVE":
        return None
    position, format_chunk, long_size = 12, b"", None
    while len(head := file.read(8)) == 8:
        position += 8
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            if start[:4] != b"RIFF" and long_size is not None and size in (0, _UNKNOWN):
                size = long_size if 0 < long_size < 1 << 62 else _UNKNOWN
                is_exact = size != _UNKNOWN
            else:
                is_exact = 0 < size < _UNKNOWN_FROM
            return _header(
                format_chunk, position, None if size in (0, _UNKNOWN) else size, is_exact, start[:4] == b"BW64"
            )
        if name == b"fmt ":
            format_chunk = file.read(min(size, _MAX_FORMAT_BYTES))
            left = size - len(format_chunk)
        elif name == b"ds64" and size >= 16:
            (long_size,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
            left = size - 16
        else:
            left = size
        left += size % 2
        position += size + size % 2
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                return None
            left -= len(piece)
    return None


def _header(chunk: bytes, start: int, size: int | None, is_exact: bool, is_bw64: bool) -> WavHeader | None:
    if len(chunk) < 16:
        return None
    tag, channels, sample_rate, byte_rate, frame_bytes, bits = struct.unpack("<HHIIHH", chunk[:16])
    mask = 0
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack("<H", chunk[24:26])
        (mask,) = struct.unpack("<I", chunk[20:24])
    sample_bytes = (bits + 7) // 8
    # 24 bits in 4 bytes. libsndfile would read 3 bytes a sample; a wrong block size alone it ignores, and so do we.
    is_padded = tag == 1 and 16 < bits <= 24 and frame_bytes == 4 * channels and byte_rate == frame_bytes * sample_rate
    if is_padded:
        sample_bytes = 4
        chunk = chunk[:14] + struct.pack("<H", 32) + chunk[16:]
    names = tuple(name for bit, name in enumerate(_SPEAKERS) if mask >> bit & 1)
    layout = names if len(names) == channels else None
    encoding = _ENCODINGS.get((tag, sample_bytes))
    is_misread = is_padded or is_bw64
    frame_bytes = sample_bytes * channels
    return WavHeader(sample_rate, channels, encoding, frame_bytes, layout, chunk, is_misread, start, size, is_exact)


def inspect_wav(file: BinaryIO, start: int, file_bytes: int) -> Finding | None:
    """Finds where the audio of a file ends. None if the file is no WAV.

    Args:
        file: Seekable.
        start: Of the header, which may follow an ID3 tag.
        file_bytes: Size of the file.
    """
    file.seek(start)
    header = read_wav_header(file)
    if header is None:
        return None
    first = start + header.start
    last = _unknown_end(file, first, file_bytes) if header.size is None else min(first + header.size, file_bytes)
    notes = end_notes(header, last - first, read_at(file, last, 5), file_bytes - last)
    if header.size is not None and not header.is_misread:
        return Finding(notes=notes, layout=header.layout)
    chunk = header.format_chunk
    head = struct.pack("<4sI4s4sI", b"RIFF", _UNKNOWN, b"WAVE", b"fmt ", len(chunk)) + chunk + bytes(len(chunk) % 2)
    size = _UNKNOWN if last - first >= _UNKNOWN_FROM else last - first
    view = View(file, [head + struct.pack("<4sI", b"data", size), (first, last)])
    return Finding([view], notes, header.layout)


def end_notes(header: WavHeader, audio_bytes: int, behind: bytes, bytes_behind: int) -> list[str]:
    """What is unusual about the end of the audio.

    Args:
        header: Of the WAV.
        audio_bytes: Bytes of audio that there are.
        behind: The first 5 bytes behind the audio, or as many as there are.
        bytes_behind: Number of bytes behind the audio.
    """
    notes = []
    if header.is_exact and header.size is not None and audio_bytes < header.size:
        notes.append(f"The audio has {audio_bytes} bytes, its header states {header.size}.")
    if header.encoding is not None and header.frame_bytes and (odd := audio_bytes % header.frame_bytes):
        notes.append(partial_sample_note(header.frame_bytes, odd))
    names = (behind[:4], behind[1:5])  # a chunk begins at an even position
    if header.size is not None and bytes_behind >= 8 and not any(_is_chunk_name(name) for name in names):
        notes.append(
            f"{bytes_behind} bytes follow the {header.size} bytes of audio that its header states. They are not read."
        )
    return notes


def partial_sample_note(frame_bytes: int, odd: int) -> str:
    """The note on the last bytes of audio that are less than one sample of every channel."""
    return f"The audio ends within a sample of {frame_bytes} bytes; its last {odd} are not used."


def _is_chunk_name(name: Sequence[int]) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def _unknown_end(file: BinaryIO, first: int, file_bytes: int) -> int:
    """Where audio of unknown length ends: at a chunk of text or at the end of the file."""
    position, held = first, b""
    while piece := read_at(file, position, 1 << 20):
        if found := TRAILER.search(held + piece):
            return position - len(held) + found.start()
        position += len(piece)
        held = (held + piece)[1 - TRAILER_BYTES :]
    return file_bytes
