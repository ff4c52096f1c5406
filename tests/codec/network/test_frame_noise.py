"""Noise by frame: its numbers against NumPy's 32-bit integers, its moments and correlations."""

import numpy as np
import torch

from codec.network.frame_noise import frame_noise


def hashed(counters: np.ndarray) -> np.ndarray:
    """The hash "lowbias32" in 32-bit arithmetic."""
    x = counters.astype(np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def test_numbers_are_a_hash_of_frame_and_channel() -> None:
    starts = [0, 7, 2**32 - 3]
    found = frame_noise(torch.tensor(starts), 50, 4)
    frames = np.array(starts, np.uint64)[:, None, None] + np.arange(50, dtype=np.uint64)
    counters = (frames * np.uint64(4) + np.arange(4, dtype=np.uint64)[:, None]) % np.uint64(2**32)
    expected = (hashed(counters).astype(np.float64) * 2.0**-31 - 1) * np.sqrt(3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_a_later_start_continues_the_numbers() -> None:
    whole = frame_noise(torch.tensor([0]), 30, 3)
    assert torch.equal(frame_noise(torch.tensor([11]), 19, 3), whole[..., 11:])


def test_numbers_are_uniform_and_independent() -> None:
    """1.6 million numbers: each estimate is within five standard deviations."""
    x = frame_noise(torch.tensor([12345]), 100_000, 16)[0].double().numpy()
    assert abs(x.mean()) < 5 / np.sqrt(x.size)
    assert abs((x**2).mean() - 1) < 5 * np.sqrt(0.8 / x.size)  # the variance of x squared is 9/5 - 1
    counts, _ = np.histogram(x, 64, (-np.sqrt(3), np.sqrt(3)))
    assert np.abs(counts * 64 / x.size - 1).max() < 5 * np.sqrt(64 / x.size)
    correlations = np.corrcoef(np.concatenate([x[:, :-1], x[:, 1:]]))  # of channels, and of neighbouring frames
    assert np.abs(correlations - np.eye(32)).max() < 6 / np.sqrt(x.shape[1])
