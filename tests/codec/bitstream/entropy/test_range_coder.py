"""Range coding: compared with a decoder in Python integers, and with stored bytes."""

import contextlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.bitstream.entropy.range_coder import MAX_WEIGHT, PRECISION, RangeDecoder, RangeEncoder, symbol_counts
from codec.bitstream.layout import MAX_CODES_PER_BYTE

Integers = NDArray[np.int64]


def encoded(codes: Integers, counts: Integers) -> bytes:
    coder = RangeEncoder()
    coder.put(codes, counts)
    return coder.finish()


def decoded_with_integers(data: bytes, counts: Integers) -> list[int]:
    """A range decoder with 64 bits of state and words of 32 bits, in Python integers."""
    words = iter([int.from_bytes(data[i : i + 4], "big") for i in range(0, len(data), 4)])
    mask = (1 << 64) - 1
    lower, width, point = 0, mask, next(words, 0) << 32 | next(words, 0)
    codes = []
    for row in counts.tolist():
        unit = width >> PRECISION
        quantile = ((point - lower) & mask) // unit
        below = code = 0
        while below + row[code] + 1 <= quantile:
            below += row[code] + 1
            code += 1
        codes.append(code)
        lower, width = (lower + unit * below) & mask, unit * (row[code] + 1)
        if width < 1 << 32:
            lower, width, point = (lower << 32) & mask, width << 32, (point << 32 & mask) | next(words, 0)
    return codes


def drawn(seed: int, size: int, length: int, steepness: float) -> tuple[Integers, Integers]:
    rng = np.random.default_rng(seed)
    weights = (rng.random((length, size)) ** steepness * (1 << 30)).astype(np.int64)
    weights[:, 0] += 1
    return rng.integers(0, size, length), symbol_counts(weights)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30), st.sampled_from([2, 3, 16, 1024]), st.integers(0, 60), st.sampled_from([1.0, 30.0]))
def test_integers_decode_what_constriction_encodes(seed: int, size: int, length: int, steepness: float) -> None:
    codes, counts = drawn(seed, size, length, steepness)
    data = encoded(codes, counts)
    assert decoded_with_integers(data, counts) == codes.tolist()
    coder = RangeDecoder(data)
    assert [coder.take(row) for row in counts] == codes.tolist()
    coder.finish()


def test_bytes_equal_the_stored_ones() -> None:
    counts = symbol_counts(np.array([[5, 0, 3, 1], [1, 1, 1, 1], [0, 0, 0, 9], [1 << 30, 1, 2, 3]]).repeat(6, 0))
    codes = np.arange(24) * 7 % 4
    assert encoded(codes, counts).hex() == "89cc7755037fecb2e562acd4ded2b408"


def test_the_size_is_the_entropy_of_the_frequencies() -> None:
    codes, counts = drawn(1, 1024, 2000, 10.0)
    bits = -np.log2((np.take_along_axis(counts, codes[:, None], 1) + 1) / 2**PRECISION).sum()
    assert bits / 8 <= len(encoded(codes, counts)) <= bits / 8 + 8


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, MAX_WEIGHT), min_size=2, max_size=40).filter(any))
def test_frequencies_have_a_fixed_sum_and_follow_the_weights(weights: list[int]) -> None:
    size, total = len(weights), sum(weights)
    counts = symbol_counts(np.array(weights))
    assert counts.min() >= 0
    assert int(counts.sum()) + size == 1 << PRECISION
    floor = ((1 << PRECISION) - size >> 8) // size
    for count, weight in zip(counts.tolist(), weights, strict=True):
        expected = floor + ((1 << PRECISION) - size - floor * size) * weight / total
        assert expected - 1 <= count <= expected + size
    assert counts.argmax() == np.argmax(weights)


@pytest.mark.parametrize("size", [2, 1024, 1 << 16])
def test_no_byte_holds_more_codes_than_a_file_may_announce(size: int) -> None:
    weights = np.zeros(size, np.int64)
    weights[size // 2] = MAX_WEIGHT
    counts = symbol_counts(weights)
    cheapest = -np.log2((int(counts.max()) + 1) / 2**PRECISION)
    assert 8 / cheapest < MAX_CODES_PER_BYTE
    assert -np.log2((int(counts.min()) + 1) / 2**PRECISION) <= 24


def test_rows_do_not_depend_on_each_other() -> None:
    weights = np.random.default_rng(0).integers(0, 1 << 38, (5, 3, 17))
    whole = symbol_counts(weights)
    for i in range(5):
        for j in range(3):
            np.testing.assert_array_equal(whole[i, j], symbol_counts(weights[i, j]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=40))
def test_arbitrary_bytes_decode_to_valid_codes_or_are_refused(data: bytes) -> None:
    counts = drawn(2, 16, 1, 4.0)[1][0]
    codes: list[int] = []
    with contextlib.suppress(ValueError):
        coder = RangeDecoder(data)
        codes.extend(coder.take(counts) for _ in range(200))
    assert set(codes) <= set(range(16))


def test_surplus_bytes_are_refused() -> None:
    codes, counts = drawn(3, 16, 50, 4.0)
    coder = RangeDecoder(encoded(codes, counts))
    for row in counts[:25]:
        coder.take(row)
    with pytest.raises(ValueError, match="more bytes than its codes take"):
        coder.finish()


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ValueError, match="pip install constriction"):
        RangeEncoder()
