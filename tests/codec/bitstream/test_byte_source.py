"""`ByteSource`: position, remaining bytes, peeking."""

import io
import math

import pytest

from bitstream_inputs import Pipe
from codec.bitstream.byte_source import ByteSource


@pytest.mark.parametrize("file", [io.BytesIO, Pipe])
def test_peeked_bytes_are_read_again(file: type[io.BytesIO]) -> None:
    source = ByteSource(file(b"abcdef"))
    assert source.peek(4) == b"abcd"
    assert source.position == 0
    assert source.read(2) == b"ab"
    assert source.peek(3) == b"cde"
    assert source.read(9) == b"cdef"
    assert (source.position, source.read(1)) == (6, b"")


def test_remaining_bytes_are_known_for_files_only() -> None:
    file = io.BytesIO(b"abcdef")
    file.read(1)
    source = ByteSource(file)
    assert source.remaining == 5
    source.read(2)
    assert source.remaining == 3
    assert math.isinf(ByteSource(Pipe(b"abc")).remaining)


def test_large_reads_are_split() -> None:
    pipe = Pipe(bytes(200_000))
    assert len(ByteSource(pipe).read(1 << 40)) == 200_000
    assert pipe.largest_read <= 1 << 16
