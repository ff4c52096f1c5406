"""Polarity."""

import numpy as np
import pytest
import torch

from data import RandomPolarity


def test_all_channels_are_inverted_with_the_probability() -> None:
    polarity, generator = RandomPolarity(0.3), torch.Generator().manual_seed(0)
    audio = torch.tensor([[0.5, -0.25], [0.125, 1.0]])
    signs = np.array([float((polarity(audio, generator) / audio).unique()) for _ in range(600)])
    assert set(signs) == {-1.0, 1.0}
    assert np.mean(signs < 0) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 600))
    with pytest.raises(ValueError, match=r"probability must be a number in \[0, 1\], got 2"):
        RandomPolarity(2)
