"""Ways to damage an encoded file, by accident and on purpose. They know the header; of blocks they need not know."""

import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from codec.bitstream import BitstreamReader

__all__ = ["mutate", "reseal"]

_START = struct.Struct(">4sBI")  # magic, version, length of the header
_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 64, -1)
_VALUES: tuple[Any, ...] = (
    *_NUMBERS,
    1.5,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    "",
    "fixed",
    "adaptive",
    "transformer",
    "x" * 5000,
    "\x00",
    [],
    {},
    [[]],
)

Mutation = Callable[[random.Random, bytes, bytes], bytes]


def mutate(drawn: random.Random, files: Sequence[bytes]) -> bytes:
    """One of the valid `files`, changed in up to four ways; half of the time with its checksums made right again."""
    data = drawn.choice(files)
    for _ in range(drawn.choice((1, 1, 1, 2, 4))):
        data = drawn.choice(_MUTATIONS)(drawn, data, drawn.choice(files))
    return reseal(data) if drawn.random() < 0.5 else data


def reseal(data: bytes) -> bytes:
    """`data` with every checksum that the reader gets to made right, so that what it guards is looked at.

    Files of version 0 have none.
    """
    sealed = bytearray(data)
    try:
        for _ in _Sealing(io.BytesIO(data), sealed).stored_blocks():
            pass
    except ValueError:
        pass  # what could be read up to there is sealed
    return bytes(sealed)


class _Sealing(BitstreamReader):
    """Writes the checksum that it should find, wherever it looks for one, into a copy of the file."""

    def __init__(self, file: io.BytesIO, copy: bytearray) -> None:
        self.copy = copy
        super().__init__(file, "file")

    def _check(self, data: bytes, checksum: bytes, what: str) -> None:
        right = struct.pack(">I", zlib.crc32(data))
        self.copy[self.bytes_read - len(right) : self.bytes_read] = right


def _place(drawn: random.Random, data: bytes) -> int:
    """Anywhere, but often near the start or the end, where the lengths are."""
    near = drawn.choice((len(data), 40, 400))
    place = drawn.randrange(min(near, len(data)) + 1)
    return place if drawn.random() < 0.7 else len(data) - place


def _flip_bits(drawn: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(drawn.choice((1, 1, 2, 8))):
        if changed:
            changed[min(_place(drawn, data), len(changed) - 1)] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def _replace_bytes(drawn: random.Random, data: bytes, _: bytes) -> bytes:
    place, length = _place(drawn, data), drawn.choice((1, 2, 4, 16))
    return data[:place] + drawn.randbytes(length) + data[place + length :]


def _write_number(drawn: random.Random, data: bytes, _: bytes) -> bytes:
    """A number at the limits, as wide as the format's."""
    place, width = _place(drawn, data), drawn.choice((2, 4, 8))
    number = (drawn.choice(_NUMBERS) % (1 << 8 * width)).to_bytes(width, "big")
    return data[:place] + number + data[place + width :]


def _insert(drawn: random.Random, data: bytes, other: bytes) -> bytes:
    place, length = _place(drawn, data), drawn.choice((1, 2, 4, 100))
    source = drawn.choice((drawn.randbytes(length), bytes(length), other[_place(drawn, other) :][:length]))
    return data[:place] + source + data[place:]


def _delete(drawn: random.Random, data: bytes, _: bytes) -> bytes:
    place = _place(drawn, data)
    return data[:place] + data[place + drawn.choice((1, 2, 4, 100)) :]


def _truncate(drawn: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: _place(drawn, data)]


def _repeat(drawn: random.Random, data: bytes, _: bytes) -> bytes:
    place = _place(drawn, data)
    piece = data[place : place + drawn.choice((4, 50, 500))]
    return data[:place] + piece * drawn.choice((2, 3)) + data[place + len(piece) :]


def _splice(drawn: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(drawn, data)] + other[_place(drawn, other) :]


def _swap_headers(drawn: random.Random, data: bytes, other: bytes) -> bytes:
    """The header of one file before the blocks of another."""
    return other[: _header_end(other)] + data[_header_end(data) :]


def _edit_header(drawn: random.Random, data: bytes, other: bytes) -> bytes:
    """Another value, name or type in the header, with its length and checksum right."""
    end = _header_end(data)
    try:
        values: dict[str, Any] = dict(json.loads(data[_START.size : end - _checksum_size(data)]))
    except (ValueError, TypeError, RecursionError):
        return _flip_bits(drawn, data, other)
    for _ in range(drawn.choice((1, 1, 3))):
        name = drawn.choice([*values, "more"])
        match drawn.randrange(4):
            case 0:
                values.pop(name, None)
            case 1 if isinstance(values.get(name), int):
                values[name] += drawn.choice((-1, 1))
            case _:
                values[name] = drawn.choice(_VALUES)
    text = json.dumps(values).encode()
    if drawn.random() < 0.1:
        text = drawn.choice((text[:-1], text + text, b"[" * 3000, b'{"a":' * 3000, b"\xff" + text, b"9" * 6000))
    start = _START.pack(data[:4], data[4], len(text)) + text
    return start + struct.pack(">I", zlib.crc32(start))[: _checksum_size(data)] + data[end:]


def _header_end(data: bytes) -> int:
    """Where the blocks begin, as far as that can be told."""
    if len(data) < _START.size:
        return len(data)
    return min(len(data), _START.size + _START.unpack(data[: _START.size])[2] + _checksum_size(data))


def _checksum_size(data: bytes) -> int:
    """Bytes after the header; the encodec package's format, version 0, has no checksums."""
    return 0 if data[4:5] == b"\0" else 4


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _replace_bytes, _write_number, _insert, _delete, _truncate, _repeat, _splice, _swap_headers,
    _edit_header, _edit_header,
)  # fmt: skip
