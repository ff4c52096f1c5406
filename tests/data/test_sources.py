"""Levels and peaks. How a source is read is tested with the segments."""

import math

import pytest
import torch

from data import level_dbfs, limit_peak


def test_only_peaks_above_one_are_scaled() -> None:
    assert limit_peak(torch.tensor([[0.5, -2.0]])).tolist() == [[0.25, -1.0]]
    quiet = torch.tensor([[0.5, -1.0]])
    assert limit_peak(quiet) is quiet
    assert limit_peak(torch.zeros(2, 0)).shape == (2, 0)


def test_levels() -> None:
    assert level_dbfs(torch.tensor([[1.0, -1.0]])) == 0.0
    tone = 0.5 * torch.sin(2 * math.pi * torch.arange(24_000) / 240)[None]
    assert level_dbfs(tone) == pytest.approx(-9.03, abs=0.01)  # half amplitude: -6.02, sine: -3.01
    assert level_dbfs(torch.zeros(1, 100)) == level_dbfs(torch.zeros(1, 0)) == -math.inf
