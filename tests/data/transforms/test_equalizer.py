"""Random frequency response: gains of octave bands, measured with tones."""

import math

import numpy as np
import pytest
import torch

from data import RandomEqualizer, level_dbfs

RATE = 24000


def tone(hertz: float) -> torch.Tensor:
    """A second at -40 dBFS, faded in and out so that its ends are quiet. Shape: -> [1, RATE]."""
    t = torch.arange(RATE, dtype=torch.float64) / RATE
    return (0.014 * (2 * math.pi * hertz * t).sin() * (math.pi * t).sin())[None].float()


def gain_db(equalizer: RandomEqualizer, hertz: float, seed: int) -> float:
    audio = tone(hertz)
    return level_dbfs(equalizer(audio, torch.Generator().manual_seed(seed))) - level_dbfs(audio)


def test_gains_of_octave_bands_are_uniform_and_linear_between() -> None:
    equalizer = RandomEqualizer(RATE, maximum_db=6)
    bands = [62.5 * 2**i for i in range(8)]
    gains = np.array([[gain_db(equalizer, hertz, seed) for hertz in bands] for seed in range(60)])
    np.testing.assert_allclose(gains.mean(1), 0, atol=0.1)  # no change of the level as a whole
    # Uniform in [-6, 6] less the mean of eight such gains: a variance of 12 (1 - 1 / 8), four standard deviations.
    assert gains.std() == pytest.approx(math.sqrt(12 * 7 / 8), abs=4 * 3.5 / math.sqrt(2 * gains.size))
    half_way = gain_db(equalizer, bands[3] * math.sqrt(2), 5)
    assert half_way == pytest.approx((gains[5, 3] + gains[5, 4]) / 2, abs=0.2)
    assert gain_db(equalizer, 30.0, 5) == pytest.approx(gains[5, 0], abs=0.3)  # constant beyond the outermost bands
    assert gain_db(equalizer, 11000.0, 5) == pytest.approx(gains[5, 7], abs=0.1)


def test_the_phase_is_kept() -> None:
    audio = tone(500)
    changed = RandomEqualizer(RATE, maximum_db=12)(audio, torch.Generator().manual_seed(1))
    assert float(torch.nn.functional.cosine_similarity(audio, changed)) > 0.999


def test_peak_probability_and_degenerate_input() -> None:
    loud = torch.sign(tone(300))
    for seed in range(20):
        assert float(RandomEqualizer(RATE)(loud, torch.Generator().manual_seed(seed)).abs().max()) <= 1 + 1e-6
    generator = torch.Generator().manual_seed(0)
    equalizer = RandomEqualizer(RATE, probability=0.25)
    changed = sum(not torch.equal(equalizer(loud, generator), loud) for _ in range(200))
    assert 25 < changed < 75
    always = RandomEqualizer(RATE)
    assert torch.equal(always(torch.zeros(2, 100), generator), torch.zeros(2, 100))
    assert always(torch.zeros(1, 0), generator).shape == (1, 0)
    assert bool(always(torch.ones(1, 1), generator).isfinite().all())


@pytest.mark.parametrize("arguments", [{"maximum_db": -1}, {"probability": 2}, {"sample_rate": 0}])
def test_bad_settings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RandomEqualizer(**{"sample_rate": RATE} | arguments)  # type: ignore[arg-type]
