"""Phase: sines against their formula, the spectrum, and the angles that are drawn."""

import numpy as np
import pytest
import torch

from data import RandomPhase


@pytest.mark.parametrize("samples", [240, 241])
def test_every_frequency_is_shifted_by_one_angle(samples: int) -> None:
    """For sums of sines with whole periods, all angles are read from the spectra."""
    time = torch.arange(samples, dtype=torch.float64) / samples
    waves = (
        torch.sin(2 * torch.pi * 3 * time),
        torch.cos(2 * torch.pi * 10 * time),
        torch.sin(2 * torch.pi * 50 * time),
    )
    audio = 0.2 * sum(waves)[None].float() + 0.1
    generator = torch.Generator().manual_seed(0)
    angles = []
    for _ in range(200):
        before, after = np.fft.rfft(audio[0].double()), np.fft.rfft(RandomPhase()(audio, generator)[0].double())
        np.testing.assert_allclose(np.abs(after), np.abs(before), atol=2e-5)
        ratios = after[[3, 10, 50]] / before[[3, 10, 50]]
        np.testing.assert_allclose(ratios, ratios[0], atol=1e-4)
        np.testing.assert_allclose(after[0], before[0], atol=2e-5)
        angles.append(np.angle(ratios[0]))
    assert np.mean(angles) == pytest.approx(0, abs=4 * 2 * np.pi / np.sqrt(12 * 200))
    assert np.std(angles) == pytest.approx(np.pi / np.sqrt(3), rel=0.15)


def test_full_scale_is_not_exceeded_and_tiny_segments_are_kept() -> None:
    square = torch.ones(2, 400)
    square[:, 200:] = -1  # its Hilbert transform has high peaks
    generator = torch.Generator().manual_seed(0)
    assert max(float(RandomPhase()(square, generator).abs().max()) for _ in range(20)) == pytest.approx(1)
    for samples in range(4):
        assert RandomPhase()(torch.ones(1, samples), generator).shape == (1, samples)
