"""Range coding: bytes equal those of the package constriction, and intervals follow the weights."""

import contextlib

import numpy as np
import pytest
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.bitstream.entropy.range_coder import (
    MAX_WEIGHT,
    PRECISION,
    RangeDecoder,
    RangeEncoder,
    boundaries,
    floor_size,
)
from codec.bitstream.layout import MAX_CODES_PER_BYTE

Integers = NDArray[np.int64]


def encoded(codes: Integers, ends: Integers) -> bytes:
    coder = RangeEncoder()
    for code, row in zip(codes, ends, strict=True):
        coder.put(int(row[code]), int(row[code + 1] - row[code]))
    return coder.finish()


def decoded(coder: RangeDecoder, ends: Integers) -> list[int]:
    codes = []
    for row in ends:
        code = int(np.searchsorted(row, coder.peek(), "right")) - 1
        coder.take(int(row[code]), int(row[code + 1] - row[code]))
        codes.append(code)
    return codes


def drawn(seed: int, size: int, length: int, steepness: float) -> tuple[Integers, Integers]:
    rng = np.random.default_rng(seed)
    weights = (rng.random((length, size)) ** steepness * MAX_WEIGHT).astype(np.int64)
    weights[:, 0] += 1
    return weights.argmax(-1) if seed % 2 else rng.integers(0, size, length), boundaries(weights)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(0, 1 << 30), st.sampled_from([2, 3, 16, 1024]), st.integers(0, 60), st.sampled_from([1.0, 30.0, 300.0])
)
def test_bytes_equal_those_of_constriction(seed: int, size: int, length: int, steepness: float) -> None:
    codes, ends = drawn(seed, size, length, steepness)
    data = encoded(codes, ends)
    reference = stream.queue.RangeEncoder()
    # The category i of n gets floor(c_i * (2^24 - n) / sum) + i, so these counts are taken as they are.
    counts = (np.diff(ends) - 1).astype(np.float64)
    if length:
        reference.encode(codes.astype(np.int32), stream.model.Categorical(perfect=False), counts)
    assert data == reference.get_compressed().astype(">u4").tobytes()
    coder = RangeDecoder(data)
    assert decoded(coder, ends) == codes.tolist()
    coder.finish()


def test_a_carry_passes_words_of_one_bits() -> None:
    """Each interval holds the middle of the range just above its low end; the last symbol lifts the low end over it."""
    starts = [1 << 23, 1 << 7, *[1 << 15, (1 << 23) + (1 << 7)] * 5]
    before, coder = RangeEncoder(), RangeEncoder()
    for start in starts:
        before.put(start, 1)
        coder.put(start, 1)
    assert before.finish()[:36].hex() == "7fffffff" + 8 * "ffffffff"
    starts.append((1 << PRECISION) - 1)
    coder.put(starts[-1], 1)
    data = coder.finish()
    assert data[:36].hex() == "80000000" + 8 * "00000000"
    decoder = RangeDecoder(data)
    for start in starts:
        assert decoder.peek() == start
        decoder.take(start, 1)
    decoder.finish()


def test_bytes_equal_the_stored_ones() -> None:
    ends = boundaries(np.array([[5, 0, 3, 1], [1, 1, 1, 1], [0, 0, 0, 9], [1 << 22, 1, 2, 3]]).repeat(6, 0))
    codes = np.arange(24) * 7 % 4
    assert encoded(codes, ends).hex() == "89cc76226f60e55be562acc542c494cb"


def test_the_size_is_the_entropy_of_the_frequencies() -> None:
    codes, ends = drawn(1, 1024, 2000, 10.0)
    sizes = np.take_along_axis(np.diff(ends), codes[:, None], 1)
    bits = -np.log2(sizes / 2**PRECISION).sum()
    assert bits / 8 <= len(encoded(codes, ends)) <= bits / 8 + 8


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, MAX_WEIGHT), min_size=2, max_size=40).filter(any))
def test_intervals_follow_the_weights(weights: list[int]) -> None:
    symbols, total = len(weights), sum(weights)
    ends = boundaries(np.array(weights)).tolist()
    assert (ends[0], ends[-1]) == (0, 1 << PRECISION)
    floor = floor_size(symbols)
    for start, end, weight in zip(ends[:-1], ends[1:], weights, strict=True):
        assert abs(end - start - floor - ((1 << PRECISION) - floor * symbols) * weight / total) < 1
        assert end - start >= floor >= 1


@pytest.mark.parametrize("symbols", [2, 1024, 1 << 16])
def test_no_byte_holds_more_codes_than_a_file_may_announce(symbols: int) -> None:
    weights = np.zeros(symbols, np.int64)
    weights[symbols // 2] = MAX_WEIGHT
    sizes = np.diff(boundaries(weights))
    assert sizes.min() == floor_size(symbols) >= 1
    assert 8 / -np.log2(sizes.max() / 2**PRECISION) < MAX_CODES_PER_BYTE


def test_the_largest_weights_do_not_overflow() -> None:
    sizes = np.diff(boundaries(np.full(1 << 16, MAX_WEIGHT)))
    np.testing.assert_array_equal(sizes, 1 << PRECISION - 16)


def test_rows_do_not_depend_on_each_other() -> None:
    weights = np.random.default_rng(0).integers(0, MAX_WEIGHT, (5, 3, 17))
    whole = boundaries(weights)
    for i in range(5):
        for j in range(3):
            np.testing.assert_array_equal(whole[i, j], boundaries(weights[i, j]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=40))
def test_arbitrary_bytes_decode_to_valid_codes_or_are_refused(data: bytes) -> None:
    ends = drawn(2, 16, 1, 4.0)[1].repeat(200, 0)
    codes: list[int] = []
    with contextlib.suppress(ValueError):
        codes = decoded(RangeDecoder(data), ends)
    assert set(codes) <= set(range(16))


def test_surplus_bytes_are_refused() -> None:
    codes, ends = drawn(4, 16, 50, 4.0)
    coder = RangeDecoder(encoded(codes, ends) + bytes(8))
    assert decoded(coder, ends) == codes.tolist()
    with pytest.raises(ValueError, match="more bytes than its codes take"):
        coder.finish()


def test_missing_bytes_are_refused() -> None:
    """With the interval from 0 every time, missing bytes decode to the same codes."""
    coder = RangeEncoder()
    for _ in range(20):
        coder.put(0, 1)
    decoder = RangeDecoder(coder.finish()[:-8])
    for _ in range(20):
        assert decoder.peek() == 0
        decoder.take(0, 1)
    with pytest.raises(ValueError, match="fewer bytes than its codes take"):
        decoder.finish()
