"""Noise: the ratio of powers, its distribution, and which recordings are mixed in."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import DataError, RandomNoise, mix_at_snr

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sources that are told apart by their sign."""
    for name, level in (("music/a.wav", 0.5), ("effects/b.wav", -0.25), ("effects/c.wav", -0.125)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.full(RATE, level), RATE, subtype="FLOAT")
    return tmp_path


def tone(samples: int = 800) -> torch.Tensor:
    """A whole number of periods, so that its mean is zero."""
    return 0.1 * torch.sin(2 * torch.pi * torch.arange(samples) / 16)[None]


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_powers_have_the_ratio(snr_db: float) -> None:
    generator = torch.Generator().manual_seed(0)
    audio, noise = (0.05 * torch.randn(2, 4000, generator=generator) for _ in range(2))
    mixed = mix_at_snr(audio, 3 * noise, snr_db)
    added = (mixed - audio).double().numpy()
    ratio = 10 * np.log10(np.mean(audio.double().numpy() ** 2) / np.mean(added**2))
    assert ratio == pytest.approx(snr_db, abs=1e-3)
    torch.testing.assert_close(mixed - audio, noise * (mixed - audio).norm() / noise.norm(), atol=1e-6, rtol=0)


def test_silence_has_no_ratio_and_full_scale_is_not_exceeded() -> None:
    silence = torch.zeros(1, 800)
    assert torch.equal(mix_at_snr(tone(), silence, 0), tone())
    assert torch.equal(mix_at_snr(silence, tone(), 0), silence)
    loud = mix_at_snr(9 * tone(), torch.ones(1, 800), 0)
    assert float(loud.abs().max()) == pytest.approx(1)


def test_the_ratio_is_uniform_in_db_and_the_probability_that_of_noise(folder: Path) -> None:
    noise = RandomNoise(str(folder), RATE, 1, -5, 20, probability=0.7)
    generator = torch.Generator().manual_seed(0)
    added = np.array([float(noise(tone(), generator).mean()) for _ in range(1000)])
    assert np.mean(np.abs(added) > 1e-7) == pytest.approx(0.7, abs=4 * np.sqrt(0.7 * 0.3 / 1000))
    levels = added[np.abs(added) > 1e-7]
    snr_db = 10 * np.log10(0.005 / levels**2)
    assert -5.01 < snr_db.min() < -4.5
    assert 19.5 < snr_db.max() < 20.01
    assert np.mean(snr_db) == pytest.approx(7.5, abs=4 * 25 / np.sqrt(12 * len(levels)))
    assert np.mean(levels > 0) == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / len(levels)))  # by duration


def test_noise_may_come_from_some_sources_only(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = RandomNoise(str(folder), RATE, probability=1, sources=["effects"])
    assert all(float(noise(tone(), generator).mean()) < 0 for _ in range(50))
    with pytest.raises(DataError, match=r"has the sources \['effects', 'music'\], it lacks \['hum'\]"):
        RandomNoise(str(folder), RATE, sources=["hum"])


def test_damaged_noise_is_passed_over(folder: Path) -> None:
    noise = RandomNoise(str(folder), RATE, probability=1)
    (folder / "music/a.wav").unlink()
    generator = torch.Generator().manual_seed(0)
    assert all(float(noise(tone(), generator).mean()) < 0 for _ in range(50))
    (folder / "effects/b.wav").unlink()
    (folder / "effects/c.wav").unlink()
    with pytest.raises(DataError, match="20 reads of noise failed, most of it is corrupt"):
        noise(tone(), generator)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minimum_snr_db": 31}, "expected minimum_snr_db <= maximum_snr_db, got 31 and 30"),
        ({"probability": -0.1}, r"probability must be a number in \[0, 1\], got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(folder: Path, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomNoise(str(folder), RATE, **settings)
