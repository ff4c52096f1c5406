"""Codebook usage against worked numbers and NumPy histograms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.evaluation import bitrate_efficiency, codebook_usage, codes_used, count_codes


def test_usage_of_known_codes() -> None:
    # Codebook 1 uses four of eight codes evenly, codebook 2 one code, codebook 3 one code at 3/4 and another at 1/4.
    counts = count_codes(torch.tensor([[[0, 1, 2, 3], [5, 5, 5, 5], [7, 7, 7, 0]]]), [8, 8, 8])
    usage = codebook_usage(counts, [8, 8, 8])
    skewed_bits = 0.75 * math.log2(4 / 3) + 0.25 * 2
    torch.testing.assert_close(usage.bits, torch.tensor([2.0, 0.0, skewed_bits]).double())
    torch.testing.assert_close(usage.perplexity, 2**usage.bits)
    torch.testing.assert_close(usage.dead_fraction, torch.tensor([0.5, 0.875, 0.75]).double())
    assert bitrate_efficiency(counts, [8, 8, 8]) == pytest.approx((2 + skewed_bits) / 9)
    assert codes_used(counts, [8, 8, 8]) == pytest.approx((4 + 1 + 2) / 24)


def test_uniform_usage_has_efficiency_one() -> None:
    counts = count_codes(torch.arange(16).repeat(3, 2, 1), [16, 16])
    usage = codebook_usage(counts, [16, 16])
    assert bitrate_efficiency(counts, [16, 16]) == pytest.approx(1)
    assert usage.perplexity.tolist() == pytest.approx([16, 16])
    assert usage.dead_fraction.tolist() == [0, 0]


def test_codebooks_of_different_sizes() -> None:
    counts = count_codes(torch.tensor([[[0, 1, 2, 3], [0, 0, 1, 1]]]), [4, 8])
    assert counts.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0, 0, 0]]
    assert codebook_usage(counts, [4, 8]).dead_fraction.tolist() == [0, 0.75]
    assert codes_used(counts, [4, 8]) == pytest.approx((1 + 0.25) / 2)
    assert bitrate_efficiency(counts, [4, 8]) == pytest.approx((2 + 1) / (2 + 3))
    with pytest.raises(ValueError, match=r"codebook 1: expected codes in 0 .. 3, got 0 .. 4"):
        count_codes(torch.tensor([[[0, 4], [0, 4]]]), [4, 8])


def test_usage_equals_a_numpy_histogram() -> None:
    codes = torch.randint(0, 32, (4, 3, 50), generator=torch.Generator().manual_seed(0)) // 2
    usage = codebook_usage(count_codes(codes, [32] * 3), [32] * 3)
    for k in range(3):
        counts = np.bincount(codes[:, k].flatten().numpy(), minlength=32)
        share = counts[counts > 0] / counts.sum()
        assert float(usage.bits[k]) == pytest.approx(-(share * np.log2(share)).sum())
        assert float(usage.dead_fraction[k]) == pytest.approx((counts == 0).mean())


def test_counts_of_batches_add_up() -> None:
    codes = torch.randint(0, 8, (4, 2, 20), generator=torch.Generator().manual_seed(0))
    whole = count_codes(codes, [8, 8])
    assert whole.sum(1).tolist() == [80, 80]
    assert torch.equal(whole, count_codes(codes[:1], [8, 8]) + count_codes(codes[1:], [8, 8]))


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (torch.zeros(1, 1, 4), TypeError, "expected integer codes, got torch.float32"),
        (torch.zeros(1, 1, 4, dtype=torch.bool), TypeError, "torch.bool"),
        (torch.zeros(1, 4).long(), ValueError, r"codes \[B, 1, F\].* got \[1, 4\]"),
        (torch.zeros(1, 1, 0).long(), ValueError, r"got \[1, 1, 0\]"),
        (torch.zeros(1, 2, 3).long(), ValueError, r"codes \[B, 1, F\].* got \[1, 2, 3\]"),
        (torch.full((1, 1, 4), 8), ValueError, r"expected codes in 0 .. 7, got 8 .. 8"),
        (torch.full((1, 1, 4), -1), ValueError, r"got -1 .. -1"),
    ],
)
def test_invalid_codes_raise(codes: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        count_codes(codes, [8])


def test_codebooks_without_codes_or_bits_raise() -> None:
    with pytest.raises(ValueError, match="a codebook without any"):
        codebook_usage(torch.tensor([[1, 2], [0, 0]]), [2, 2])
    with pytest.raises(ValueError, match="at least 2 codes"):
        bitrate_efficiency(count_codes(torch.zeros(1, 1, 3).long(), [1]), [1])
