"""A file made of ranges of another file and of new bytes, such as a corrected header."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO

__all__ = ["Finding", "View", "read_at"]


class View(io.RawIOBase):
    """A seekable file to read from. Closing it does not close the file below.

    Attributes:
        size: In bytes.

    Args:
        file: Open for reading and seekable.
        parts: In order: bytes, or the (start, stop) of a range of `file`.
    """

    def __init__(self, file: BinaryIO, parts: Sequence[bytes | tuple[int, int]]) -> None:
        self._file = file
        self._parts: list[tuple[int, int, bytes | int]] = []  # start and stop in the view; bytes or start in the file
        self.size = self._position = 0
        for part in parts:
            length = len(part) if isinstance(part, bytes) else part[1] - part[0]
            source = part if isinstance(part, bytes) else part[0]
            self._parts.append((self.size, self.size + length, source))
            self.size += length
        self._starts = [start for start, _, _ in self._parts]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fills the buffer unless the view ends before."""
        target, filled = memoryview(buffer), 0
        index = max(0, bisect_right(self._starts, self._position) - 1)
        while filled < len(target) and index < len(self._parts):
            start, stop, source = self._parts[index]
            length = max(0, min(stop - self._position, len(target) - filled))
            if isinstance(source, bytes):
                piece = source[self._position - start :][:length]
            else:
                piece = read_at(self._file, source + self._position - start, length)
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
            if len(piece) < length:  # the file is shorter than stated
                break
            index += 1
        return filled


class Finding:
    """What an inspection of a file found.

    Attributes:
        views: What libsndfile shall decode, one after the other; None for the file as it is.
        notes: Sentences for the user.
        layout: Names of the channels if the file states them.
        last_seeks: For each stream, the last frame to which libsndfile seeks exactly; empty for any frame.

    Args:
        views, notes, layout, last_seeks: See above.
    """

    def __init__(
        self,
        views: list[View] | None = None,
        notes: Sequence[str] = (),
        layout: Sequence[str] | None = None,
        last_seeks: Sequence[int] = (),
    ) -> None:
        self.views, self.notes, self.layout, self.last_seeks = views, list(notes), layout, list(last_seeks)


def read_at(file: BinaryIO, position: int, length: int) -> bytes:
    """Bytes from `position` on, fewer than `length` only where the file ends."""
    if length <= 0:
        return b""
    file.seek(position)
    data = file.read(length)
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    return data
