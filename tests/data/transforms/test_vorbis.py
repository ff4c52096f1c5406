"""Lossy coding: alignment, the error at each level, and how often it happens."""

import numpy as np
import pytest
import torch

from data import DataError, RandomVorbis

RATE = 24000


def tones(channels: int = 1, samples: int = RATE) -> torch.Tensor:
    time = torch.arange(samples) / RATE
    return torch.stack([0.3 * torch.sin(2 * torch.pi * (440 + 220 * c) * time) for c in range(channels)])


def snr_db(audio: torch.Tensor, coded: torch.Tensor) -> float:
    error = (coded - audio).double().square().mean()
    return float(10 * torch.log10(audio.double().square().mean() / error))


@pytest.mark.parametrize("channels", [1, 2])
def test_the_result_is_aligned_and_worse_at_higher_levels(channels: int) -> None:
    audio = tones(channels)
    coded = [RandomVorbis(RATE, level, level, 1)(audio, torch.Generator()) for level in (0.0, 0.5, 1.0)]
    assert all(each.shape == audio.shape for each in coded)
    errors = [snr_db(audio, each) for each in coded]
    assert errors[0] > errors[1] > errors[2] > 10  # a delay of one sample would leave 18 dB at the first level
    assert errors[0] > 30


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_short_segments_keep_their_length(samples: int) -> None:
    assert RandomVorbis(RATE, probability=1)(tones(2, samples), torch.Generator()).shape == (2, samples)


def test_the_probability_is_that_of_coding() -> None:
    vorbis, generator, audio = RandomVorbis(RATE), torch.Generator().manual_seed(0), tones(1, 100)
    changed = np.mean([not torch.equal(vorbis(audio, generator), audio) for _ in range(200)])
    assert changed == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(200))


@pytest.mark.parametrize("settings", [(-0.1, 1.0), (0.9, 0.5), (0.5, 1.0, 2)])
def test_settings_out_of_range_are_refused(settings: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="expected 0 <= minimum_level"):
        RandomVorbis(RATE, *settings)
