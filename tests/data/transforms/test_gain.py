"""Gain: its distribution, and the limit at full scale."""

import math

import numpy as np
import pytest
import torch

from data import DataError, RandomGain, level_dbfs


def test_random_gain_is_uniform_in_db() -> None:
    tone = 0.1 * torch.sin(torch.arange(1000) / 5)[None]
    gain = RandomGain(-12, 6)
    generator = torch.Generator().manual_seed(0)
    levels = np.array([level_dbfs(gain(tone, generator)) - level_dbfs(tone) for _ in range(500)])
    assert -12 <= levels.min() < -11.5
    assert 5.5 < levels.max() <= 6 + 1e-4
    assert np.mean(levels) == pytest.approx(-3, abs=4 * 18 / math.sqrt(12 * 500))  # four standard deviations


def test_random_gain_does_not_exceed_full_scale() -> None:
    audio = torch.tensor([[0.9, -0.5]])
    loud = RandomGain(20, 20)(audio, torch.Generator())
    torch.testing.assert_close(loud, audio / 0.9)
    assert torch.equal(RandomGain(20, 20)(torch.zeros(1, 5), torch.Generator()), torch.zeros(1, 5))
    assert RandomGain()(torch.zeros(1, 0), torch.Generator()).shape == (1, 0)
    with pytest.raises(DataError, match="minimum_db <= maximum_db, got 6 and -12"):
        RandomGain(6, -12)
