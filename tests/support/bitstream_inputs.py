"""Encoded files of random codes, and a pipe to read them from."""

import io
import struct
import zlib

import numpy as np

from codec.bitstream import BitstreamHeader, BitstreamReader, BitstreamWriter, Block

HEADER = BitstreamHeader(
    model="0123456789abcdef",
    sample_rate=24_000,
    channels=1,
    num_codebooks=3,
    bits_per_code=5,
    hop_samples=8,
    has_gain=False,
    source_sample_rate=44_100,
    source_channels=2,
)
END_BYTES = 2 + 8 + 8 + 4


def random_blocks(header: BitstreamHeader, frames: list[int]) -> list[Block]:
    rng = np.random.default_rng(0)
    return [
        Block(
            rng.integers(0, 1 << header.bits_per_code, (header.num_codebooks, f)),
            float(np.float32(rng.uniform(0.1, 1))) if header.has_gain else None,
        )
        for f in frames
    ]


def written(header: BitstreamHeader, blocks: list[Block], samples: int) -> bytes:
    file = io.BytesIO()
    writer = BitstreamWriter(file, header)
    for block in blocks:
        writer.write(block)
    writer.finish(samples)
    return file.getvalue()


def read(data: bytes) -> tuple[BitstreamHeader, list[Block], int | None]:
    reader = BitstreamReader(io.BytesIO(data), "file")
    blocks = list(reader.blocks())
    return reader.header, blocks, reader.samples


def with_checksum(part: bytes) -> bytes:
    return part + struct.pack(">I", zlib.crc32(part))


def header_bytes(data: bytes) -> int:
    """Bytes of a file before its first block."""
    return 9 + int.from_bytes(data[5:9], "big") + 4


def assert_same_blocks(got: list[Block], want: list[Block]) -> None:
    assert [b.gain for b in got] == [b.gain for b in want]
    for a, b in zip(got, want, strict=True):
        assert a.codes.dtype == np.int64
        np.testing.assert_array_equal(a.codes, b.codes)


class Pipe(io.BytesIO):
    """A file that cannot seek. It records the largest read."""

    largest_read = 0

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    tell = seek

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        self.largest_read = max(self.largest_read, size)
        return super().read(size)
