"""The arithmetic coder of the encodec package: compared with the package, and with invalid bits."""

import io
import itertools

import numpy as np
import pytest
import torch
from encodec.quantization.ac import ArithmeticCoder, ArithmeticDecoder, build_stable_quantized_cdf
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream.encodec.range_coder import MIN_BITS, RangeDecoder, RangeEncoder, cumulative_tables


def test_tables_equal_the_package() -> None:
    flat = torch.softmax(torch.randn(1024, 4), 0)
    peaked = torch.softmax(30 * torch.randn(1024, 4), 0)
    certain = torch.zeros(1024, 1)
    certain[17] = 1
    probabilities = torch.cat([flat, peaked, certain, 1 - 1e-7 * certain - (1 - certain)], 1)
    tables = cumulative_tables(probabilities)
    for k, table in enumerate(tables):
        assert torch.equal(torch.from_numpy(table), build_stable_quantized_cdf(probabilities[:, k], 24, check=False))
    assert (np.diff(tables) >= 2).all()


@given(
    size=st.integers(1, 1024), count=st.integers(0, 300), sharpness=st.sampled_from([0.0, 1.0, 10.0, 60.0]),
    seed=st.integers(0, 1 << 30), likely=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_bytes_equal_the_package(size: int, count: int, sharpness: float, seed: int, likely: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(sharpness * torch.randn(size, count, generator=generator), 0)
    symbols = torch.randint(size, (count,), generator=generator)
    if likely:
        symbols = probabilities.argmax(0)
    tables = cumulative_tables(probabilities)
    ours, file = RangeEncoder(), io.BytesIO()
    theirs = ArithmeticCoder(file)
    for symbol, table in zip(symbols.tolist(), tables, strict=True):
        try:
            theirs.push(symbol, torch.from_numpy(table))
        except AssertionError:
            assert table[-1] > 1 << 24
            with pytest.raises(ValueError, match="add up to more than 1"):
                ours.push(symbol, table)
            return
        ours.push(symbol, table)
    theirs.flush()
    data = ours.finish()
    assert data == file.getvalue()
    rest = iter(data)
    decoder = RangeDecoder(rest.__next__)
    assert [decoder.pull(table) for table in tables] == symbols.tolist()
    assert list(rest) == []


def test_a_certain_symbol_costs_at_least_the_minimum() -> None:
    probabilities = torch.zeros(1024, 1)
    probabilities[5] = 1
    (table,) = cumulative_tables(probabilities)
    coder, count = RangeEncoder(), 200_000
    for _ in range(count):
        coder.push(5, table)
    bits = 8 * len(coder.finish())
    assert count * MIN_BITS < bits < 2 * count * MIN_BITS + 24 + 8  # the first interval, and the last byte


def test_arbitrary_bits_decode_as_in_the_package() -> None:
    outcomes = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        data = rng.bytes(12)
        tables = cumulative_tables(torch.softmax(4 * torch.randn(64, 100), 0))
        rest = iter(data)
        ours, theirs = RangeDecoder(rest.__next__), ArithmeticDecoder(io.BytesIO(data))
        for table in tables:
            try:
                expected = theirs.pull(torch.from_numpy(table))
            except RuntimeError:
                expected = -1
            try:
                got: int | None = ours.pull(table)
            except StopIteration:
                got = None
            except ValueError:
                got = -1
            assert got == expected
            if got is None or got == -1:
                outcomes.add(got)
                break
    assert None in outcomes


def test_bits_outside_all_shares_are_refused() -> None:
    # The table ends before 2^24, and the bits are after its end.
    with pytest.raises(ValueError, match="stand for no code"):
        RangeDecoder(itertools.repeat(0xFF).__next__).pull(np.array([1 << 20, 1 << 23]))


def test_too_many_bits_that_are_not_final_are_refused() -> None:
    # The second share is around the middle of the interval, so 0111... and 1000... both remain possible.
    half = 1 << 23
    table = np.array([half - 2, half + 2, 1 << 24])
    coder = RangeEncoder()
    for _ in range(1_000):
        coder.push(1, table)
    rest = iter(coder.finish())
    decoder = RangeDecoder(rest.__next__)
    with pytest.raises(ValueError, match="1024 of its bits are not final"):
        [decoder.pull(table) for _ in range(1_000)]
    assert len(list(rest)) > 1_000
    assert decoder._interval.pending_bits < 1_100


def test_a_share_outside_the_interval_is_refused_as_in_the_package() -> None:
    table = np.array([1 << 24, (1 << 24) + 2])
    with pytest.raises(AssertionError):
        ArithmeticCoder(io.BytesIO()).push(1, torch.from_numpy(table))
    with pytest.raises(ValueError, match="add up to more than 1"):
        RangeEncoder().push(1, table)


def test_a_probability_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        cumulative_tables(torch.tensor([[0.5], [float("nan")]]))
