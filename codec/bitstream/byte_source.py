"""Bytes of a file or a pipe whose length is not known, taken without believing what it says of itself."""

import math
import os
from typing import BinaryIO

__all__ = ["ByteSource"]

_PIECE = 1 << 16  # bytes read at a time


class ByteSource:
    """Reads onward; a length that is asked for takes no more memory than there are bytes.

    Attributes:
        left: Bytes to the end of the file, infinite if it cannot seek, as a pipe.
        taken: Bytes read or passed over so far.

    Args:
        file: Open for reading; read from where it stands.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = math.inf
        self.taken = 0
        self._ahead = b""  # looked at, not taken yet
        if file.seekable():
            start = file.tell()
            self.left = file.seek(0, os.SEEK_END) - start
            file.seek(start)

    def peek(self, length: int) -> bytes:
        """The next so many bytes, which are still to be read; fewer if the file ends before."""
        ahead = self.read(length)
        self._ahead = ahead + self._ahead
        self._count(-len(ahead))
        return ahead

    def read(self, length: int) -> bytes:
        """So many bytes, or fewer if the file ends before."""
        pieces = [self._ahead[:length]]
        self._ahead = self._ahead[length:]
        self._count(len(pieces[0]))
        length -= len(pieces[0])
        while length and (piece := self.file.read(min(length, _PIECE))):
            pieces.append(piece)
            length -= len(piece)
            self._count(len(piece))
        return b"".join(pieces)

    def skip(self, length: int) -> bool:
        """Passes over so many bytes; False if the file ends before."""
        length -= len(self.read(min(length, len(self._ahead))))
        if math.isfinite(self.left):
            step = int(min(length, self.left))
            self.file.seek(step, os.SEEK_CUR)
            self._count(step)
            return step == length
        while length and (piece := self.file.read(min(length, _PIECE))):
            length -= len(piece)
            self._count(len(piece))
        return length == 0

    def _count(self, length: int) -> None:
        self.left -= length
        self.taken += length
