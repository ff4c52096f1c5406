"""Bitstreams of random codes, and a pipe to read them from."""

import io

import numpy as np

from codec.bitstream.reader import (
    BitstreamHeader,
    BitstreamWriter,
    Block,
)

HEADER = BitstreamHeader(
    model="0123456789abcdef",
    sample_rate=24_000,
    channels=1,
    codebooks=3,
    bits_per_code=5,
    hop_samples=8,
    scaled=False,
    source_sample_rate=44_100,
    source_channels=2,
)


def random_blocks(header: BitstreamHeader, frames: list[int]) -> list[Block]:
    rng = np.random.default_rng(0)
    return [
        Block(
            rng.integers(0, 1 << header.bits_per_code, (header.codebooks, f)),
            float(np.float32(rng.uniform(0.1, 1))) if header.scaled else None,
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


def assert_same_blocks(got: list[Block], want: list[Block]) -> None:
    assert [b.scale for b in got] == [b.scale for b in want]
    for a, b in zip(got, want, strict=True):
        assert a.codes.dtype == np.int64
        np.testing.assert_array_equal(a.codes, b.codes)


class Pipe(io.BytesIO):
    """Neither seeks nor tells; notes the largest read that was asked for."""

    largest = 0

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    tell = seek

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        self.largest = max(self.largest, size)
        return super().read(size)
