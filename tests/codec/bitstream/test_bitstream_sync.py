"""Sync points: decoding from the middle, with a coding that depends on all before; and damage to such files."""

import contextlib
import io
import zlib
from dataclasses import replace

import numpy as np
import pytest

from bitstream_inputs import HEADER, Pipe, assert_same_blocks, random_blocks, written
from codec.bitstream.entropy.adaptive import AdaptiveCoding
from codec.bitstream.reader import BitstreamError, BitstreamHeader, BitstreamReader, BitstreamWriter, Block

ADAPTIVE = replace(HEADER, coding="adaptive", sync_blocks=3)
FRAMES = [4, 1, 7, 2, 5, 3, 6, 2]  # of blocks; 0, 3 and 6 are sync points
STARTS = np.cumsum([0, *FRAMES])


def coded(header: BitstreamHeader = ADAPTIVE) -> tuple[bytes, list[Block]]:
    blocks = random_blocks(header, FRAMES)
    file = io.BytesIO()
    writer = BitstreamWriter(file, header, AdaptiveCoding(header.codebooks, header.bits_per_code))
    for block in blocks:
        writer.write(block)
    writer.finish(8 * int(STARTS[-1]) - 3)
    return file.getvalue(), blocks


def opened(data: bytes, file: type[io.BytesIO] = io.BytesIO) -> BitstreamReader:
    reader = BitstreamReader(file(data), "file")
    reader.coding = AdaptiveCoding(reader.header.codebooks, reader.header.bits_per_code)
    return reader


@pytest.mark.parametrize("file", [io.BytesIO, Pipe])
@pytest.mark.parametrize("scaled", [False, True])
def test_blocks_from_any_frame_on_are_those_of_the_whole(file: type[io.BytesIO], scaled: bool) -> None:
    data, blocks = coded(replace(ADAPTIVE, scaled=scaled))
    assert_same_blocks(list(opened(data, file).blocks()), blocks)
    for frame in range(STARTS[-1] + 3):
        reader = opened(data, file)
        first = int(np.searchsorted(STARTS, frame, side="right")) - 1
        assert reader.seek(frame) == STARTS[first]
        assert_same_blocks(list(reader.blocks()), blocks[first:])
        assert (reader.frames, reader.samples) == (STARTS[-1], 8 * STARTS[-1] - 3)


def test_seeking_from_the_middle_goes_on_from_there() -> None:
    data, blocks = coded()
    reader = opened(data)
    given = reader.blocks()
    assert_same_blocks([next(given), next(given)], blocks[:2])
    assert reader.seek(int(STARTS[4])) == STARTS[4]
    assert_same_blocks(list(given), blocks[4:])


def test_what_is_passed_over_is_not_read_closely() -> None:
    data, blocks = coded()
    stored = [block.data for block in opened(data).stored_blocks()]
    place = data.index(stored[1])
    damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    reader = opened(damaged)
    reader.seek(int(STARTS[3]))
    assert_same_blocks(list(reader.blocks()), blocks[3:])
    reader = opened(damaged)
    reader.seek(int(STARTS[2]))  # but what must be decoded on the way is
    with pytest.raises(BitstreamError, match="the checksum of a block of codes is wrong"):
        next(reader.blocks())


def test_a_bad_byte_is_noticed_in_its_block_and_those_before_are_sound() -> None:
    data, blocks = coded()
    start = 9 + int.from_bytes(data[5:9], "big") + 4
    given = set()
    for position in range(start, len(data)):
        for flipped in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= flipped
            found: list[Block] = []
            with pytest.raises(BitstreamError):
                found.extend(opened(bytes(damaged)).blocks())
            assert_same_blocks(found, blocks[: len(found)])
            given.add(len(found))
    assert given == set(range(9))


def test_a_file_that_starts_without_a_sync_point_is_refused() -> None:
    data = bytearray(written(HEADER, random_blocks(HEADER, [5]), 40))
    start = 9 + int.from_bytes(data[5:9], "big") + 4
    data[start] &= 0x7F
    del data[start + 6 : start + 14]
    block = bytes(data[start:-26])
    data[-26:-22] = zlib.crc32(block).to_bytes(4, "big")
    with pytest.raises(BitstreamError, match="its first block is no sync point"):
        list(BitstreamReader(io.BytesIO(bytes(data)), "file").blocks())


def test_codes_in_a_coding_need_its_coder() -> None:
    with pytest.raises(ValueError, match="in the coding adaptive its coder is needed"):
        BitstreamWriter(io.BytesIO(), ADAPTIVE)
    reader = BitstreamReader(io.BytesIO(coded()[0]), "file")
    with pytest.raises(ValueError, match="in the coding adaptive its coder is needed"):
        next(reader.blocks())
    assert sum(block.frames for block in reader.stored_blocks()) == STARTS[-1]


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, bytes(400), bytes(range(200)), b"abc"])
def test_codes_that_no_coder_made_are_refused_though_the_checksum_is_right(content: bytes) -> None:
    """Or they decode to other codes, as any bytes may; nothing else happens."""

    class Garbage(AdaptiveCoding):
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
