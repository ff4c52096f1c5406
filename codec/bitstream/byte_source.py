"""Reads files and pipes whose length is unknown, without trusting the lengths that they announce."""

import math
import os
from typing import BinaryIO

__all__ = ["ByteSource"]

_CHUNK_BYTES = 1 << 16


class ByteSource:
    """Reads forward. A read allocates no more memory than there are bytes, whatever length is asked for.

    Attributes:
        remaining: Bytes up to the end of the file; infinite if the file cannot seek (a pipe).
        position: Bytes read or skipped so far.

    Args:
        file: Open for reading. Reading starts at its current position.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.remaining = math.inf
        self.position = 0
        self._peeked = b""
        if file.seekable():
            start = file.tell()
            self.remaining = file.seek(0, os.SEEK_END) - start
            file.seek(start)

    def peek(self, length: int) -> bytes:
        """Returns the next `length` bytes without consuming them; fewer if the file ends earlier."""
        peeked = self.read(length)
        self._peeked = peeked + self._peeked
        self._advance(-len(peeked))
        return peeked

    def read(self, length: int) -> bytes:
        """Returns the next `length` bytes; fewer if the file ends earlier."""
        chunks = [self._peeked[:length]]
        self._peeked = self._peeked[length:]
        self._advance(len(chunks[0]))
        length -= len(chunks[0])
        while length and (chunk := self.file.read(min(length, _CHUNK_BYTES))):
            chunks.append(chunk)
            length -= len(chunk)
            self._advance(len(chunk))
        return b"".join(chunks)

    def _advance(self, length: int) -> None:
        self.remaining -= length
        self.position += length
