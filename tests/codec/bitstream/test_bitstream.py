"""Writing and reading of encoded files: layout, corruption, memory, pipes, seeking."""

import io
import json
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstream_inputs import (
    END_BYTES,
    HEADER,
    Pipe,
    assert_same_blocks,
    random_blocks,
    read,
    with_checksum,
    written,
)
from codec.bitstream import BitstreamError, BitstreamReader, BitstreamWriter, Block
from codec.bitstream.block_coder import pack


def small_file(has_gain: bool) -> bytes:
    header = replace(HEADER, has_gain=has_gain)
    return written(header, random_blocks(header, [5, 2]), 50)


@pytest.mark.parametrize("has_gain", [False, True])
@pytest.mark.parametrize("bits", [1, 5, 8, 10, 16])
def test_a_file_round_trips(has_gain: bool, bits: int) -> None:
    header = replace(HEADER, has_gain=has_gain, bits_per_code=bits)
    blocks = random_blocks(header, [4, 1, 7])
    header_read, blocks_read, samples = read(written(header, blocks, 90))
    assert (header_read, samples) == (header, 90)
    assert_same_blocks(blocks_read, blocks)


def test_a_signal_of_no_samples_round_trips() -> None:
    assert read(written(HEADER, [], 0)) == (HEADER, [], 0)


def test_the_layout_is_the_documented_one() -> None:
    header = replace(HEADER, has_gain=True, num_codebooks=2, bits_per_code=10)
    data = written(header, [Block(np.array([[1, 2], [3, 1023]]), 0.5)], 13)
    assert data[:5] == b"ECDC\x01"
    (length,) = struct.unpack(">I", data[5:9])
    values = json.loads(data[9 : 9 + length])
    assert values["model"] == "0123456789abcdef"
    assert values["coding"] == "fixed"
    # Frame by frame, codebook by codebook: 1, 3, 2, 1023.
    block = struct.pack(">HIQf", 0x8000 | 2, 5, 0, 0.5) + pack(np.array([1, 3, 2, 1023]), 10)
    end = struct.pack(">HQQ", 0, 13, 2)
    assert data == b"".join(map(with_checksum, (data[: 9 + length], block, end)))


def test_the_writer_counts_its_bytes() -> None:
    file = io.BytesIO()
    writer = BitstreamWriter(file, HEADER)
    for block in random_blocks(HEADER, [4, 1]):
        writer.write(block)
    writer.finish(40)
    assert writer.file_bytes == len(file.getvalue())
    assert (writer.blocks, writer.frames, writer.code_bytes) == (2, 5, 8 + 2)


@pytest.mark.parametrize("has_gain", [False, True])
def test_every_truncation_is_refused(has_gain: bool) -> None:
    data = small_file(has_gain)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            read(data[:length])
    with pytest.raises(BitstreamError, match=r"^file is truncated"):
        read(data[:-1])
    with pytest.raises(BitstreamError, match=r"^file is corrupt: 4 bytes follow its end$"):
        read(data + b"more")


@pytest.mark.parametrize("has_gain", [False, True])
def test_every_flipped_bit_is_refused(has_gain: bool) -> None:
    data = small_file(has_gain)
    for position in range(len(data)):
        for bit in range(8):
            corrupt = bytearray(data)
            corrupt[position] ^= 1 << bit
            with pytest.raises(BitstreamError):
                read(bytes(corrupt))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80), st.booleans(), st.sampled_from([b"", b"\x01", b"\x02"]))
def test_arbitrary_bytes_are_refused(data: bytes, has_magic: bool, version: bytes) -> None:
    with pytest.raises(BitstreamError):
        read((b"ECDC" if has_magic else b"") + version + data)


@pytest.mark.parametrize(
    ("samples", "frames", "message"),
    [(10, 6, "its end announces 6 frames, but it has 5"), (41, 5, "41 samples"), (0, 5, "0 samples")],
)
def test_an_end_that_contradicts_the_blocks_is_refused(samples: int, frames: int, message: str) -> None:
    end = with_checksum(struct.pack(">HQQ", 0, samples, frames))
    data = written(HEADER, random_blocks(HEADER, [5]), 40)[:-END_BYTES] + end
    with pytest.raises(BitstreamError, match=message):
        read(data)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf"), 2.0**64])
def test_an_impossible_gain_is_refused(gain: float) -> None:
    header = replace(HEADER, has_gain=True)
    block = with_checksum(struct.pack(">HIQf", 0x8001, 2, 0, gain) + bytes(2))
    with pytest.raises(BitstreamError, match="a block has the gain"):
        read(written(header, [], 0)[:-END_BYTES] + block)


def test_announced_lengths_allocate_no_memory() -> None:
    data = written(HEADER, [], 0)[:-END_BYTES] + struct.pack(">HIQ", 0x9000, 36_000, 0) + bytes(100)
    tracemalloc.start()
    with pytest.raises(BitstreamError, match="truncated"):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000


@pytest.mark.parametrize(
    ("frames", "size"), [(0, 5), (4097, 8000), (1, 0), (4096, 2), (1, 18), (1, 1 << 31), (4096, 36_873)]
)
def test_a_frame_count_that_does_not_fit_the_size_is_refused_unread(frames: int, size: int) -> None:
    """With 3 codes per frame: at most 4096 codes a byte, at most 3 bytes a code and 8 more, at most 4096 frames."""
    data = written(HEADER, [], 0)[:-END_BYTES] + struct.pack(">HIQ", 0x8000 | frames, size, 0) + bytes(40_000)
    with pytest.raises(BitstreamError, match=f"^file is corrupt: a block announces {frames} frames in {size} bytes$"):
        read(data)


@pytest.mark.parametrize(
    ("shape", "gain", "message"),
    [
        ((2, 4), None, r"expected codes \[3, F\] with F from 1 to 4096, got \[2, 4\]"),
        ((3, 0), None, r"got \[3, 0\]"),
        ((3, 4097), None, r"got \[3, 4097\]"),
        ((3, 4), 1.0, "has_gain False, but the gain of the block is 1.0"),
    ],
)
def test_the_writer_refuses_blocks_that_do_not_fit_the_header(
    shape: tuple[int, int], gain: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BitstreamWriter(io.BytesIO(), HEADER).write(Block(np.zeros(shape, np.int64), gain))


@pytest.mark.parametrize("gain", [2.0**64, 2.0**64 * (1 - 2**-30), 1e300, np.inf, np.nan, 0.0, -1.0, 1e-60])
def test_the_writer_refuses_gains_that_the_reader_refuses_and_writes_nothing(gain: float) -> None:
    """Gains are stored as float32. So values that round to 2^64 or to 0 are refused, too."""
    header = replace(HEADER, has_gain=True)
    limits = [2.0**-149, float(np.nextafter(np.float32(2**64), np.float32(0)))]
    blocks = [b._replace(gain=limit) for b, limit in zip(random_blocks(header, [2, 3]), limits, strict=True)]
    file = io.BytesIO()
    writer = BitstreamWriter(file, header)
    writer.write(blocks[0])
    with pytest.raises(ValueError, match="too loud to encode: the gain must be above 0 and below 2"):
        writer.write(blocks[1]._replace(gain=gain))
    writer.write(blocks[1])
    writer.finish(40)
    assert_same_blocks(read(file.getvalue())[1], blocks)


@pytest.mark.parametrize("has_gain", [False, True])
def test_a_pipe_is_read_like_a_file(has_gain: bool) -> None:
    data = small_file(has_gain)
    reader = BitstreamReader(Pipe(data), "pipe")
    assert_same_blocks(list(reader.blocks()), read(data)[1])
    assert (reader.samples, reader.bytes_read) == (50, len(data))
    for length in range(len(data)):
        with pytest.raises(BitstreamError, match=r"^pipe is (truncated|not an encoded file)"):
            list(BitstreamReader(Pipe(data[:length]), "pipe").blocks())
    with pytest.raises(BitstreamError, match="pipe is corrupt: more bytes follow its end"):
        list(BitstreamReader(Pipe(data + b"more"), "pipe").blocks())


def test_announced_lengths_are_not_read_at_once_from_a_pipe() -> None:
    pipe = Pipe(written(HEADER, [], 0)[:-END_BYTES] + struct.pack(">HIQ", 0x9000, 36_000, 0) + bytes(100))
    with pytest.raises(BitstreamError, match="truncated"):
        list(BitstreamReader(pipe, "pipe").blocks())
    assert pipe.largest_read <= 1 << 16


@pytest.mark.parametrize("file", [io.BytesIO, Pipe])
@pytest.mark.parametrize("has_gain", [False, True])
def test_seeking_skips_whole_blocks(file: type[io.BytesIO], has_gain: bool) -> None:
    header = replace(HEADER, has_gain=has_gain)
    blocks = random_blocks(header, [4, 1, 7, 2])
    data = written(header, blocks, 100)
    for frame, first, left in [
        (0, 0, 4),
        (3, 0, 4),
        (4, 4, 3),
        (5, 5, 2),
        (11, 5, 2),
        (12, 12, 1),
        (14, 14, 0),
        (99, 14, 0),
    ]:
        reader = BitstreamReader(file(data), "file")
        assert reader.seek(frame) == first
        assert_same_blocks(list(reader.blocks()), blocks[len(blocks) - left :])
        assert (reader.samples, reader.next_frame, reader.bytes_read) == (100, 14, len(data))
    reader = BitstreamReader(file(data[:-30]), "file")
    with pytest.raises(BitstreamError, match="truncated"):
        reader.seek(99)


def test_the_target_need_not_be_seekable() -> None:
    pipe = Pipe()
    writer = BitstreamWriter(pipe, HEADER)
    for block in random_blocks(HEADER, [5, 2]):
        writer.write(block)
    writer.finish(50)
    assert pipe.getvalue() == small_file(False)
