"""The encoded file: packing, layout, and what happens to a file that is not as it was written."""

import io
import json
import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitstream_inputs import HEADER, Pipe, assert_same_blocks, random_blocks, written
from codec.bitstream.reader import (
    BitstreamError,
    BitstreamHeader,
    BitstreamReader,
    BitstreamWriter,
    Block,
    pack,
    unpack,
)

END_BYTES = 2 + 8 + 8 + 4


def read(data: bytes) -> tuple[BitstreamHeader, list[Block], int | None]:
    reader = BitstreamReader(io.BytesIO(data), "file")
    blocks = list(reader.blocks())
    return reader.header, blocks, reader.samples


def packed_by_hand(codes: list[int], bits: int) -> bytes:
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    return number.to_bytes(-(-len(codes) * bits // 8), "little")


@pytest.mark.parametrize("bits", range(1, 17))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_packing_equals_one_big_number_at_every_width(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=40))
    array = np.array(codes, np.int64)
    packed = pack(array, bits)
    assert packed == packed_by_hand(codes, bits)
    np.testing.assert_array_equal(unpack(packed, bits, len(codes)), array)


def test_packing_of_a_worked_example() -> None:
    # 5, 3, 6 in three bits: 101, 011, 110; the first byte is (from its highest bit) 10 011 101, the second 1.
    assert pack(np.array([5, 3, 6]), 3) == bytes([0b10_011_101, 0b1])


@pytest.mark.parametrize(("codes", "bits"), [([8], 3), ([-1], 3), ([0], 17)])
def test_codes_that_do_not_fit_are_refused(codes: list[int], bits: int) -> None:
    with pytest.raises(ValueError, match=f"codes of {bits} bits"):
        pack(np.array(codes), bits)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("bits", [1, 5, 8, 10, 16])
def test_a_file_round_trips(scaled: bool, bits: int) -> None:
    header = replace(HEADER, scaled=scaled, bits_per_code=bits)
    blocks = random_blocks(header, [4, 1, 7])
    header_read, blocks_read, samples = read(written(header, blocks, 90))
    assert (header_read, samples) == (header, 90)
    assert_same_blocks(blocks_read, blocks)


def test_a_signal_of_no_samples_round_trips() -> None:
    assert read(written(HEADER, [], 0)) == (HEADER, [], 0)


def test_layout_is_the_documented_one() -> None:
    header = replace(HEADER, scaled=True, codebooks=2, bits_per_code=10)
    data = written(header, [Block(np.array([[1, 2], [3, 1023]]), 0.5)], 13)
    assert data[:5] == b"ECDC\x02"
    (length,) = struct.unpack(">I", data[5:9])
    values = json.loads(data[9 : 9 + length])
    assert values["model"] == "0123456789abcdef"
    assert values["coding"] == "fixed"
    start = 9 + length
    assert data[start : start + 4] == struct.pack(">I", zlib.crc32(data[:start]))
    # Frame by frame, book by book: 1, 3, 2, 1023.
    block = struct.pack(">HIQf", 0x8000 | 2, 5, 0, 0.5) + packed_by_hand([1, 3, 2, 1023], 10)
    end = struct.pack(">HQQ", 0, 13, 2)
    assert data[start + 4 :] == b"".join(part + struct.pack(">I", zlib.crc32(part)) for part in (block, end))


def small_file(scaled: bool) -> bytes:
    header = replace(HEADER, scaled=scaled)
    return written(header, random_blocks(header, [5, 2]), 50)


@pytest.mark.parametrize("scaled", [False, True])
def test_every_truncation_is_noticed(scaled: bool) -> None:
    data = small_file(scaled)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            read(data[:length])


@pytest.mark.parametrize("scaled", [False, True])
def test_every_flipped_bit_is_noticed(scaled: bool) -> None:
    data = small_file(scaled)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(BitstreamError):
                read(bytes(damaged))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80), st.booleans(), st.sampled_from([b"", b"\x01", b"\x02"]))
def test_any_other_bytes_are_refused(data: bytes, magic: bool, version: bytes) -> None:
    with pytest.raises(BitstreamError):
        read((b"ECDC" if magic else b"") + version + data)


def test_messages_say_what_was_found() -> None:
    data = small_file(False)
    for broken, sentence in [
        (b"RIFF" + data, "^file is not an encoded file: it does not start with ECDC$"),
        (b"", "^file is not an encoded file"),
        (b"ECDC\x00" + data[5:], r"^file is in the encodec package's own format \(ECDC version 0\), not read here$"),
        (b"ECDC\x03" + data[5:], "^file is an encoded file of version 3, only 1 and 2 are read here$"),
        (data[:-1], "^file is truncated or damaged: it ends before its content does$"),
        (data[:60], "^file is truncated or damaged"),
        (data + b"more", "^file is damaged: 4 bytes follow its end$"),
        (b"ECDC\x01\xff\xff\xff\xff" + data[9:], "^file is damaged: its header claims 4294967295 bytes, at most 65536"),
    ]:
        with pytest.raises(BitstreamError, match=sentence):
            read(broken)


def test_a_file_of_another_model_is_refused_by_both_names() -> None:
    reader = BitstreamReader(io.BytesIO(small_file(False)), "file")
    reader.check_model("0123456789abcdef")
    with pytest.raises(BitstreamError, match=r"with model 0123456789abcdef, but the model given is f{16}$"):
        reader.check_model("f" * 16)


def with_header(text: bytes, rest: bytes = b"") -> bytes:
    start = struct.pack(">4sBI", b"ECDC", 1, len(text)) + text
    return start + struct.pack(">I", zlib.crc32(start)) + rest


def header_text(**changes: Any) -> bytes:
    data = small_file(False)
    (length,) = struct.unpack(">I", data[5:9])
    values = json.loads(data[9 : 9 + length]) | changes
    return json.dumps({k: v for k, v in values.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[1]", "it is no JSON object"),
        (b"{", "the header of file is not understood"),
        (b"\xff\xfe", "the header of file is not understood"),
        (b"[" * 60_000, "the header of file is not understood"),
        (b'{"model": ' + b"9" * 20_000 + b"}", "the header of file is not understood"),
        (header_text(channels=...), "it lacks channels"),
        (header_text(bits_per_code=17), "bits_per_code must be a whole number from 1 to 16, got '17'"),
        (header_text(codebooks=0), "codebooks must be"),
        (header_text(codebooks=True), "codebooks must be"),
        (header_text(hop_samples=1.5), "hop_samples must be"),
        (header_text(sample_rate=1 << 40), "sample_rate must be"),
        (header_text(sample_rate=float("nan")), "sample_rate must be"),
        (header_text(scaled=1), "scaled must be true or false"),
        (header_text(model="../../etc/passwd"), "model must be a fingerprint of 16 hex digits"),
        (header_text(model=None), "model must be a fingerprint"),
        (header_text(coding="range"), "coding must be one of fixed, adaptive, transformer, got 'range'"),
        (header_text(coding=1), "coding must be one of fixed, adaptive, transformer, got '1'"),
        (header_text(coding="transformer"), "entropy_model must be a fingerprint of 16 hex digits, got 'None'"),
        (header_text(entropy_model="0" * 16), "the coding fixed has no entropy_model, got '0000000000000000'"),
        (header_text(sync_blocks=0), "sync_blocks must be a whole number from 1 to 65536, got '0'"),
    ],
)
def test_headers_that_make_no_sense_are_refused_though_their_checksum_is_right(text: bytes, sentence: str) -> None:
    with pytest.raises(BitstreamError, match=sentence):
        read(with_header(text))


def test_unknown_header_entries_are_passed_over() -> None:
    end = struct.pack(">IQQ", 0, 0, 0)
    data = with_header(header_text(mood="blue"), end + struct.pack(">I", zlib.crc32(end)))
    assert read(data) == (HEADER, [], 0)


def checked(part: bytes) -> bytes:
    return part + struct.pack(">I", zlib.crc32(part))


@pytest.mark.parametrize(
    ("samples", "frames", "sentence"),
    [(10, 6, "it says it has 6 frames, but there are 5"), (41, 5, "41 samples"), (0, 5, "0 samples")],
)
def test_an_end_that_contradicts_the_blocks_is_refused(samples: int, frames: int, sentence: str) -> None:
    data = written(HEADER, random_blocks(HEADER, [5]), 40)[:-END_BYTES] + checked(
        struct.pack(">HQQ", 0, samples, frames)
    )
    with pytest.raises(BitstreamError, match=sentence):
        read(data)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 2.0**64])
def test_a_scale_that_no_level_has_is_refused(scale: float) -> None:
    header = replace(HEADER, scaled=True)
    data = written(header, [], 0)[:-END_BYTES] + checked(struct.pack(">HIQf", 0x8001, 2, 0, scale) + bytes(2))
    with pytest.raises(BitstreamError, match="a block has the scale"):
        read(data)


def test_claimed_lengths_take_no_memory() -> None:
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
def test_numbers_of_frames_that_cannot_be_in_so_many_bytes_are_refused_unread(frames: int, size: int) -> None:
    """3 codes a frame: at most 4096 in a byte, at least one in 3 bytes and 8 more, at most 4096 frames."""
    data = written(HEADER, [], 0)[:-END_BYTES] + struct.pack(">HIQ", 0x8000 | frames, size, 0) + bytes(40_000)
    with pytest.raises(BitstreamError, match=f"^file is damaged: a block claims {frames} frames in {size} bytes$"):
        read(data)


# Of version 1, written before there was another: three blocks of three books of ten bits, scaled.
STORED = bytes.fromhex(
    "4543444301000000bc7b226d6f64656c223a2230313233343536373839616263646566222c2273616d706c655f72617465223a32343030302c"
    "226368616e6e656c73223a312c22636f6465626f6f6b73223a332c22626974735f7065725f636f6465223a31302c22686f705f73616d706c65"
    "73223a382c227363616c6564223a747275652c22736f757263655f73616d706c655f72617465223a34343130302c22736f757263655f636861"
    "6e6e656c73223a322c22636f64696e67223a226669786564227d5e1c3664000000043f000000ae82b73ece0fde7041a11ced4c126245f0ce8b"
    "000000013e800000488a6608fb81d30600000003400000002e60c26900ff031cc330f000baf2469600000000000000000000003d0000000000"
    "000008de70343a"
)
STORED_BLOCKS = [
    Block(np.array([[686, 824, 23, 827], [480, 527, 645, 292], [1003, 55, 284, 392]]), 0.5),
    Block(np.array([[584], [418], [134]]), 0.25),
    Block(np.array([[46, 1, 49], [152, 1023, 195], [668, 768, 240]]), 2.0),
]


def test_a_stored_file_of_version_1_is_read() -> None:
    header, blocks, samples = read(STORED)
    assert (header, samples) == (replace(HEADER, scaled=True, bits_per_code=10), 61)
    assert_same_blocks(blocks, STORED_BLOCKS)
    reader = BitstreamReader(io.BytesIO(STORED), "file")
    assert reader.seek(4) == 4
    assert_same_blocks(list(reader.blocks()), STORED_BLOCKS[1:])


def test_damage_to_a_file_of_version_1_is_noticed() -> None:
    for position in range(len(STORED)):
        with pytest.raises(BitstreamError):
            read(STORED[:position])
        damaged = bytearray(STORED)
        damaged[position] ^= 4
        with pytest.raises(BitstreamError):
            read(bytes(damaged))


def codes_of(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.zeros(shape, np.int64)


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (Block(codes_of((2, 4)), None), r"expected codes \[3, F\] with F from 1 to 4096, got \[2, 4\]"),
        (Block(codes_of((3, 0)), None), r"got \[3, 0\]"),
        (Block(codes_of((3, 4097)), None), r"got \[3, 4097\]"),
        (Block(codes_of((3, 4)), 1.0), "the header says scaled: False, the block's scale is 1.0"),
    ],
)
def test_writer_refuses_what_does_not_fit_the_header(block: Block, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BitstreamWriter(io.BytesIO(), HEADER).write(block)


@pytest.mark.parametrize("scale", [2.0**64, 2.0**64 * (1 - 2**-30), 1e300, np.inf, np.nan, 0.0, -1.0, 1e-60])
def test_writer_refuses_scales_that_the_reader_would_refuse_and_writes_nothing_of_the_block(scale: float) -> None:
    """A float32 stands in the file, so what would be rounded to 2^64 or to 0 is out, too."""
    header = replace(HEADER, scaled=True)
    blocks = [block._replace(scale=level) for block, level in zip(
        random_blocks(header, [2, 3]), [2.0**-149, float(np.nextafter(np.float32(2**64), np.float32(0)))], strict=True
    )]  # fmt: skip
    file = io.BytesIO()
    writer = BitstreamWriter(file, header)
    writer.write(blocks[0])
    with pytest.raises(ValueError, match="audio so loud cannot be encoded: a block has the scale"):
        writer.write(blocks[1]._replace(scale=scale))
    writer.write(blocks[1])
    writer.finish(40)
    assert_same_blocks(read(file.getvalue())[1], blocks)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_pipe_is_read_as_a_file_is(scaled: bool) -> None:
    data = small_file(scaled)
    reader = BitstreamReader(Pipe(data), "pipe")
    assert_same_blocks(list(reader.blocks()), read(data)[1])
    assert (reader.samples, reader.bytes_read) == (50, len(data))
    for length in range(len(data)):
        with pytest.raises(BitstreamError, match=r"^pipe is (truncated or damaged|not an encoded file)"):
            list(BitstreamReader(Pipe(data[:length]), "pipe").blocks())
    with pytest.raises(BitstreamError, match="pipe is damaged: more bytes follow its end"):
        list(BitstreamReader(Pipe(data + b"more"), "pipe").blocks())


def test_claimed_lengths_take_no_memory_of_a_pipe_either() -> None:
    pipe = Pipe(written(HEADER, [], 0)[:-END_BYTES] + struct.pack(">HIQ", 0x9000, 36_000, 0) + bytes(100))
    with pytest.raises(BitstreamError, match="truncated"):
        list(BitstreamReader(pipe, "pipe").blocks())
    assert pipe.largest <= 1 << 16


@pytest.mark.parametrize("file", [io.BytesIO, Pipe])
@pytest.mark.parametrize("scaled", [False, True])
def test_seeking_passes_over_whole_blocks(file: type[io.BytesIO], scaled: bool) -> None:
    header = replace(HEADER, scaled=scaled)
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
        assert (reader.samples, reader.frames, reader.bytes_read) == (100, 14, len(data))
    reader = BitstreamReader(file(data[:-30]), "file")
    with pytest.raises(BitstreamError, match="truncated"):
        reader.seek(99)


def test_a_file_need_not_be_seekable_to_be_written() -> None:
    pipe = Pipe()
    writer = BitstreamWriter(pipe, HEADER)
    for block in random_blocks(HEADER, [5, 2]):
        writer.write(block)
    writer.finish(50)
    assert pipe.getvalue() == small_file(False)
