"""Lengths in the headers of AU, CAF and NIST files: unknown to a writer that could not go back, or too large."""

import re
import struct
from typing import BinaryIO

from codec.audio.formats.view import Finding, View, read_at

__all__ = ["inspect_au", "inspect_caf", "inspect_nist"]

_UNKNOWN = 0xFFFFFFFF


def inspect_au(file: BinaryIO, start: int, file_bytes: int) -> Finding | None:
    """Finds where the audio of an AU file ends (Sun Microsystems 1992). None if the file is none.

    Args:
        file: Seekable.
        start: Of the header.
        file_bytes: Size of the file.
    """
    head = read_at(file, start, 24)
    if head[:4] not in (b".snd", b"dns.") or len(head) < 24:
        return None
    order = ">" if head[:4] == b".snd" else "<"
    offset, size = struct.unpack(f"{order}II", head[4:12])
    present = max(0, file_bytes - start - offset)
    if size == _UNKNOWN:
        return Finding()
    if size == 0 and present:
        return Finding([View(file, [head[:8] + b"\xff" * 4, (start + 12, file_bytes)])])
    if size > present:
        return Finding(notes=[f"The audio has {present} bytes, its header states {size}."])
    behind = present - size
    if behind:
        return Finding(
            notes=[f"{behind} bytes follow the {size} bytes of audio that its header states. They are not read."]
        )
    return Finding()


def inspect_caf(file: BinaryIO, start: int, file_bytes: int) -> Finding | None:
    """Finds the audio of a CAF file that states the length -1, for unknown, or 0 (Apple 2005). None if it is none.

    Args:
        file: Seekable.
        start: Of the header.
        file_bytes: Size of the file.
    """
    if read_at(file, start, 4) != b"caff":
        return None
    position = start + 8
    while len(head := read_at(file, position, 12)) == 12:
        name, size = struct.unpack(">4sq", head)
        present = file_bytes - position - 12
        if name == b"data":
            if size not in (0, -1):
                return Finding()
            right = head[:4] + struct.pack(">q", present)
            return Finding([View(file, [(start, position), right, (position + 12, file_bytes)])])
        if not 0 <= size <= present:
            break
        position += 12 + size
    return Finding()


def inspect_nist(file: BinaryIO, start: int, file_bytes: int) -> Finding | None:
    """Finds out whether a NIST SPHERE file has the samples that its header states. None if it is none.

    Args:
        file: Seekable.
        start: Of the header.
        file_bytes: Size of the file.
    """
    head = read_at(file, start, 1024)
    if head[:8] != b"NIST_1A\n":
        return None
    names = (b"sample_count", b"channel_count", b"sample_n_bytes")
    found = [re.search(name + rb" -i (\d{1,18})\n", head) for name in names]
    stated, channels, sample_bytes = (int(match[1]) if match else 0 for match in found)
    present = (file_bytes - start - len(head)) // max(1, channels * sample_bytes)
    if present < stated:
        return Finding(notes=[f"The audio ends after {present} of the {stated} samples that its header states."])
    return Finding()
