"""Speed: sines against their formula, the factors that are drawn, and the samples that are needed."""

import numpy as np
import pytest
import torch

from data import RandomSpeed, input_samples

RATE = 24000


def played(speed: RandomSpeed, hertz: float, samples: int, generator: torch.Generator) -> torch.Tensor:
    """A sine through the transform. Its length is that the dataset would read."""
    time = torch.arange(input_samples([speed], samples), dtype=torch.float64) / RATE
    audio = torch.sin(2 * torch.pi * hertz * time).float()[None]
    return speed(audio, generator)[:, :samples]


@pytest.mark.parametrize("factor", [0.5, 0.87, 0.99, 1.0, 1.01, 1.1, 1.25, 2.0])
def test_a_sine_becomes_the_sine_of_its_faster_playback(factor: float) -> None:
    """To the ends of the segment, where a filter without the samples beyond would be wrong."""
    hertz, samples = 1000.0, 2400
    audio = played(RandomSpeed(factor, factor), hertz, samples, torch.Generator())[0].numpy()
    assert audio.shape == (samples,)
    angles = 2 * np.pi * hertz * factor * np.arange(samples) / RATE
    basis = np.stack([np.sin(angles), np.cos(angles)], -1)
    weights = np.linalg.lstsq(basis, audio, rcond=None)[0]
    np.testing.assert_allclose(audio, basis @ weights, atol=2e-4)
    assert np.hypot(*weights) == pytest.approx(1, abs=1e-3)


def test_what_a_higher_speed_moves_beyond_nyquist_is_removed() -> None:
    audio = played(RandomSpeed(1.5, 1.5), 9000.0, 2400, torch.Generator())
    assert float(audio.abs().max()) < 1e-3


def test_factors_are_uniform_in_steps_of_a_hundredth() -> None:
    hertz, samples, generator = 1000.0, 480, torch.Generator().manual_seed(0)
    speed = RandomSpeed(0.9, 1.2)
    time = torch.arange(input_samples([speed], samples)) / RATE
    audio = torch.sin(2 * torch.pi * hertz * time)[None]
    spectra = [torch.fft.rfft(speed(audio, generator)[:, :samples], RATE).abs() for _ in range(300)]
    factors = np.array([float(spectrum.argmax()) / hertz for spectrum in spectra])  # in steps of 1 Hz
    np.testing.assert_allclose(factors * 100, np.round(factors * 100), atol=0.3)
    assert len(set(np.round(factors * 100))) == 31
    assert np.mean(factors) == pytest.approx(1.05, abs=4 * 0.3 / np.sqrt(12 * 300))  # four standard deviations


@pytest.mark.parametrize("samples", [1, 100, 5000, 24000])
def test_every_factor_returns_enough_samples(samples: int) -> None:
    """Also 0.99 beside a maximum of 1, which needs no filter."""
    speed = RandomSpeed(0.7, 1.0)
    audio = torch.zeros(2, speed.input_samples(samples))
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        assert speed(audio, generator).shape[1] >= samples
    assert RandomSpeed(1.0, 1.0).input_samples(samples) == samples


def test_the_probability_is_that_of_a_change() -> None:
    speed, generator = RandomSpeed(1.1, 1.3, probability=0.25), torch.Generator().manual_seed(0)
    audio = torch.randn(1, speed.input_samples(64))
    changed = sum(speed(audio, generator).shape != audio.shape for _ in range(800))
    assert changed / 800 == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 800))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.1, 0.9), "expected minimum <= maximum, got 1.1 and 0.9"),
        ((0.1, 1.0), r"minimum must be a number in \[0.25, 4\], got 0.1"),
        ((1.0, 5.0), r"maximum must be a number in \[0.25, 4\], got 5.0"),
        ((0.9, float("nan")), r"maximum must be a number in \[0.25, 4\], got nan"),
        ((0.9, 1.1, 1.5), r"probability must be a number in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomSpeed(*arguments)
