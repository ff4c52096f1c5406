"""Loudness: the standard's coefficients and levels, and the package pyloudnorm."""

import numpy as np
import pytest
import torch

from data import DataError, NormalizeLoudness, loudness_lufs
from data.loudness import _k_weighting


def sine(hertz: float, amplitude: float, seconds: float, sample_rate: int, channels: int = 1) -> torch.Tensor:
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return (amplitude * torch.sin(2 * torch.pi * hertz * time)).float().expand(channels, -1)


def test_the_filters_at_48_khz_are_those_of_the_standard() -> None:
    """ITU-R BS.1770-4, tables 1 and 2."""
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585]
    high_pass = [1.0, -2.0, 1.0, 1, -1.99004745483398, 0.99007225036621]
    np.testing.assert_allclose(_k_weighting(48000), [shelf, high_pass], atol=1e-10)


@pytest.mark.parametrize("sample_rate", [16000, 24000, 44100, 48000])
def test_a_sine_of_997_hz_has_the_level_of_the_standard(sample_rate: int) -> None:
    """At 0 dBFS, -3.01 LUFS in one channel and 0 LUFS in two."""
    assert loudness_lufs(sine(997, 1, 2, sample_rate), sample_rate) == pytest.approx(-3.01, abs=0.05)
    assert loudness_lufs(sine(997, 1, 2, sample_rate, 2), sample_rate) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(("sample_rate", "channels"), [(24000, 1), (44100, 2), (48000, 2)])
def test_gated_loudness_is_that_of_pyloudnorm(sample_rate: int, channels: int) -> None:
    """Noise with a level for each second: one is removed by the absolute gate, others by the relative one."""
    import pyloudnorm  # takes half a second

    random = np.random.default_rng(0)
    levels = np.repeat(10 ** (np.array([-10, -30, -14, -90, -26, -12]) / 20), sample_rate)
    audio = random.normal(size=(len(levels), channels)) * levels[:, None] * 0.3
    expected = pyloudnorm.Meter(sample_rate, filter_class="DeMan").integrated_loudness(audio)
    assert loudness_lufs(torch.tensor(audio.T, dtype=torch.float32), sample_rate) == pytest.approx(expected, abs=0.01)


def test_silence_does_not_count() -> None:
    """A tone of 4 s has 37 blocks. In silence, three more at each end have 1/4, 1/2 and 3/4 of its power."""
    tone, silence = sine(500, 0.1, 4, 24000), torch.zeros(1, 24000 * 10)
    expected = loudness_lufs(tone, 24000) + 10 * np.log10((37 + 3) / (37 + 6))
    assert loudness_lufs(torch.cat([silence, tone, silence], -1), 24000) == pytest.approx(expected, abs=0.01)
    for samples in (0, 1, 100, 24000):
        assert loudness_lufs(torch.zeros(1, samples), 24000) == -np.inf


def test_segments_get_the_loudness_unless_they_would_clip() -> None:
    normalize, generator = NormalizeLoudness(24000), torch.Generator()
    for amplitude in (0.01, 0.1, 0.9):
        for seconds in (0.2, 1.0):
            normalized = normalize(sine(1000, amplitude, seconds, 24000), generator)
            assert loudness_lufs(normalized, 24000) == pytest.approx(-16, abs=0.01)
    click = torch.zeros(1, 24000)
    click[0, 100] = 0.5
    assert float(normalize(click, generator).abs().max()) == pytest.approx(1)
    assert torch.equal(normalize(torch.zeros(1, 9), generator), torch.zeros(1, 9))
    with pytest.raises(DataError, match="at least 4000 Hz"):
        NormalizeLoudness(2000)
