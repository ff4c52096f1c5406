"""Packing of codes, and the choice of a block coder."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstream_inputs import HEADER
from codec.bitstream.block_coder import FixedCoder, block_coder_for, pack, unpack
from codec.bitstream.entropy.adaptive import AdaptiveCoder


def packed_as_one_integer(codes: list[int], bits: int) -> bytes:
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    return number.to_bytes(-(-len(codes) * bits // 8), "little")


@pytest.mark.parametrize("bits", range(1, 17))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_packed_codes_are_one_little_endian_integer(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=40))
    array = np.array(codes, np.int64)
    packed = pack(array, bits)
    assert packed == packed_as_one_integer(codes, bits)
    np.testing.assert_array_equal(unpack(packed, bits, len(codes)), array)


def test_packing_of_a_worked_example() -> None:
    # 5, 3, 6 in three bits: 101, 011, 110. The first byte is (from its highest bit) 10 011 101, the second 1.
    assert pack(np.array([5, 3, 6]), 3) == bytes([0b10_011_101, 0b1])


@pytest.mark.parametrize(("codes", "bits"), [([8], 3), ([-1], 3), ([0], 17)])
def test_codes_that_do_not_fit_are_errors(codes: list[int], bits: int) -> None:
    with pytest.raises(ValueError, match=f"codes of {bits} bits"):
        pack(np.array(codes), bits)


def test_fixed_coder_stores_frame_by_frame_and_checks_the_size() -> None:
    codes = np.arange(12).reshape(3, 4)
    coder = FixedCoder(HEADER)
    data = coder.encode(codes)
    assert data == pack(codes.T.ravel(), 5)
    np.testing.assert_array_equal(coder.decode(data, 4), codes)
    with pytest.raises(ValueError, match="expected 8 bytes for 4 frames, got 7"):
        coder.decode(data[:-1], 4)


def test_a_header_with_another_coding_needs_a_coder() -> None:
    assert isinstance(block_coder_for(HEADER, None), FixedCoder)
    adaptive = AdaptiveCoder(3, 5)
    header = replace(HEADER, coding="adaptive")
    assert block_coder_for(header, adaptive) is adaptive
    with pytest.raises(ValueError, match="coding adaptive needs a block coder"):
        block_coder_for(header, None)
