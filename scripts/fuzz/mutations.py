"""Mutations of encoded files: random damage, and edits of the header with correct checksums."""

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


def mutate(rng: random.Random, files: Sequence[bytes]) -> bytes:
    """One of the valid `files` with up to four mutations; in half of the cases with correct checksums."""
    data = rng.choice(files)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_MUTATIONS)(rng, data, rng.choice(files))
    return reseal(data) if rng.random() < 0.5 else data


def reseal(data: bytes) -> bytes:
    """`data` with all checksums corrected that the reader reaches, so that the data behind them is read.

    Files of version 0 have no checksums.
    """
    sealed = bytearray(data)
    try:
        for _ in _Sealing(io.BytesIO(data), sealed).stored_blocks():
            pass
    except ValueError:
        pass  # everything before this point is corrected
    return bytes(sealed)


class _Sealing(BitstreamReader):
    """A reader that writes the correct checksums into a copy of the file instead of checking them."""

    def __init__(self, file: io.BytesIO, copy: bytearray) -> None:
        self.copy = copy
        super().__init__(file, "file")

    def _check(self, data: bytes, checksum: bytes, what: str) -> None:
        right = struct.pack(">I", zlib.crc32(data))
        self.copy[self.bytes_read - len(right) : self.bytes_read] = right


def _position(rng: random.Random, data: bytes) -> int:
    """A random position, often near the start or the end, where the length fields are."""
    near = rng.choice((len(data), 40, 400))
    position = rng.randrange(min(near, len(data)) + 1)
    return position if rng.random() < 0.7 else len(data) - position


def _flip_bits(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[min(_position(rng, data), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _replace_bytes(rng: random.Random, data: bytes, _: bytes) -> bytes:
    position, length = _position(rng, data), rng.choice((1, 2, 4, 16))
    return data[:position] + rng.randbytes(length) + data[position + length :]


def _write_number(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Writes a boundary value with the width of a number in the format."""
    position, width = _position(rng, data), rng.choice((2, 4, 8))
    number = (rng.choice(_NUMBERS) % (1 << 8 * width)).to_bytes(width, "big")
    return data[:position] + number + data[position + width :]


def _insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    position, length = _position(rng, data), rng.choice((1, 2, 4, 100))
    source = rng.choice((rng.randbytes(length), bytes(length), other[_position(rng, other) :][:length]))
    return data[:position] + source + data[position:]


def _delete(rng: random.Random, data: bytes, _: bytes) -> bytes:
    position = _position(rng, data)
    return data[:position] + data[position + rng.choice((1, 2, 4, 100)) :]


def _truncate(rng: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: _position(rng, data)]


def _repeat(rng: random.Random, data: bytes, _: bytes) -> bytes:
    position = _position(rng, data)
    piece = data[position : position + rng.choice((4, 50, 500))]
    return data[:position] + piece * rng.choice((2, 3)) + data[position + len(piece) :]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _position(rng, data)] + other[_position(rng, other) :]


def _swap_headers(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Puts the header of one file before the blocks of another."""
    return other[: _header_end(other)] + data[_header_end(data) :]


def _edit_header(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Changes a value, name or type in the header, with correct length and checksum."""
    end = _header_end(data)
    try:
        values: dict[str, Any] = dict(json.loads(data[_START.size : end - _checksum_size(data)]))
    except (ValueError, TypeError, RecursionError):
        return _flip_bits(rng, data, other)
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice([*values, "more"])
        match rng.randrange(4):
            case 0:
                values.pop(name, None)
            case 1 if isinstance(values.get(name), int):
                values[name] += rng.choice((-1, 1))
            case _:
                values[name] = rng.choice(_VALUES)
    text = json.dumps(values).encode()
    if rng.random() < 0.1:
        text = rng.choice((text[:-1], text + text, b"[" * 3000, b'{"a":' * 3000, b"\xff" + text, b"9" * 6000))
    start = _START.pack(data[:4], data[4], len(text)) + text
    return start + struct.pack(">I", zlib.crc32(start))[: _checksum_size(data)] + data[end:]


def _header_end(data: bytes) -> int:
    """Position of the first block, if the header allows to find it."""
    if len(data) < _START.size:
        return len(data)
    return min(len(data), _START.size + _START.unpack(data[: _START.size])[2] + _checksum_size(data))


def _checksum_size(data: bytes) -> int:
    """Size of the header's checksum in bytes; version 0, the format of the encodec package, has none."""
    return 0 if data[4:5] == b"\0" else 4


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _replace_bytes, _write_number, _insert, _delete, _truncate, _repeat, _splice, _swap_headers,
    _edit_header, _edit_header,
)  # fmt: skip
