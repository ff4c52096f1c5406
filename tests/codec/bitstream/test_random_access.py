"""Random access: decoding from the middle with a coding that depends on earlier blocks, and corrupt files."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest

from bitstream_inputs import HEADER, Pipe, assert_same_blocks, header_bytes, random_blocks, with_checksum, written
from codec.bitstream import BitstreamError, BitstreamHeader, BitstreamReader, BitstreamWriter, Block
from codec.bitstream.entropy.adaptive import AdaptiveCoder

ADAPTIVE = replace(HEADER, coding="adaptive", random_access_interval=3)
FRAMES = [4, 1, 7, 2, 5, 3, 6, 2]  # of blocks; 0, 3 and 6 are random access points
STARTS = np.cumsum([0, *FRAMES])


def encoded(header: BitstreamHeader = ADAPTIVE) -> tuple[bytes, list[Block]]:
    blocks = random_blocks(header, FRAMES)
    file = io.BytesIO()
    writer = BitstreamWriter(file, header, AdaptiveCoder(header.num_codebooks, header.bits_per_code))
    for block in blocks:
        writer.write(block)
    writer.finish(8 * int(STARTS[-1]) - 3)
    return file.getvalue(), blocks


def opened(data: bytes, file: type[io.BytesIO] = io.BytesIO) -> BitstreamReader:
    reader = BitstreamReader(file(data), "file")
    reader.coder = AdaptiveCoder(reader.header.num_codebooks, reader.header.bits_per_code)
    return reader


@pytest.mark.parametrize("file", [io.BytesIO, Pipe])
@pytest.mark.parametrize("has_gain", [False, True])
def test_blocks_after_a_seek_are_those_of_the_whole_file(file: type[io.BytesIO], has_gain: bool) -> None:
    data, blocks = encoded(replace(ADAPTIVE, has_gain=has_gain))
    assert_same_blocks(list(opened(data, file).blocks()), blocks)
    for frame in range(STARTS[-1] + 3):
        reader = opened(data, file)
        first = int(np.searchsorted(STARTS, frame, side="right")) - 1
        assert reader.seek(frame) == STARTS[first]
        assert_same_blocks(list(reader.blocks()), blocks[first:])
        assert (reader.next_frame, reader.samples) == (STARTS[-1], 8 * STARTS[-1] - 3)


def test_a_seek_in_the_middle_of_reading_skips_blocks() -> None:
    data, blocks = encoded()
    reader = opened(data)
    iterator = reader.blocks()
    assert_same_blocks([next(iterator), next(iterator)], blocks[:2])
    assert reader.seek(int(STARTS[4])) == STARTS[4]
    assert_same_blocks(list(iterator), blocks[4:])


def test_only_blocks_that_must_be_decoded_are_checked() -> None:
    data, blocks = encoded()
    stored = [block.data for block in opened(data).stored_blocks()]
    position = data.index(stored[1])
    corrupt = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    reader = opened(corrupt)
    reader.seek(int(STARTS[3]))
    assert_same_blocks(list(reader.blocks()), blocks[3:])
    reader = opened(corrupt)
    reader.seek(int(STARTS[2]))  # block 2 depends on block 1
    with pytest.raises(BitstreamError, match="the checksum of a block of codes is wrong"):
        next(reader.blocks())


def test_blocks_before_a_corrupt_one_are_valid() -> None:
    data, blocks = encoded()
    counts = set()
    for position in range(header_bytes(data), len(data)):
        for flipped in (0x01, 0x80, 0xFF):
            corrupt = bytearray(data)
            corrupt[position] ^= flipped
            found: list[Block] = []
            with pytest.raises(BitstreamError):
                found.extend(opened(bytes(corrupt)).blocks())
            assert_same_blocks(found, blocks[: len(found)])
            counts.add(len(found))
    assert counts == set(range(9))


def test_a_first_block_that_is_not_a_random_access_point_is_refused() -> None:
    data = written(HEADER, random_blocks(HEADER, [5]), 40)
    start = header_bytes(data)
    block, end = bytearray(data[start:-26]), data[-22:]
    block[0] &= 0x7F  # the flag
    del block[6:14]  # the number of the first frame
    with pytest.raises(BitstreamError, match="its first block is not a random access point"):
        list(BitstreamReader(io.BytesIO(data[:start] + with_checksum(bytes(block)) + end), "file").blocks())


def test_an_entropy_coding_needs_its_coder() -> None:
    with pytest.raises(ValueError, match="coding adaptive needs a block coder"):
        BitstreamWriter(io.BytesIO(), ADAPTIVE)
    reader = BitstreamReader(io.BytesIO(encoded()[0]), "file")
    with pytest.raises(ValueError, match="coding adaptive needs a block coder"):
        next(reader.blocks())
    assert sum(block.frames for block in reader.stored_blocks()) == STARTS[-1]


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, bytes(400), bytes(range(200)), b"abc"])
def test_codes_that_no_coder_wrote_are_refused_or_decode_to_valid_codes(content: bytes) -> None:
    class Garbage(AdaptiveCoder):
        def encode(self, codes: np.ndarray) -> bytes:
            return content

    file = io.BytesIO()
    writer = BitstreamWriter(file, ADAPTIVE, Garbage(3, 5))
    writer.write(Block(np.zeros((3, 400), np.int64), None))
    writer.finish(3200)
    with contextlib.suppress(BitstreamError):
        (block,) = opened(file.getvalue()).blocks()
        assert block.codes.shape == (3, 400)
        assert block.codes.max() < 32
