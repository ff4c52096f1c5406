"""Lossy coding: alignment, the error at each level, the codecs drawn, and how often it happens."""

from typing import Any

import numpy as np
import pytest
import torch

from data import RandomLossyCoding

RATE = 24000
CODECS: Any = pytest.mark.parametrize("codec", ["vorbis", "mp3", "opus"])


def tones(channels: int = 1, samples: int = RATE) -> torch.Tensor:
    time = torch.arange(samples) / RATE
    return torch.stack([0.3 * torch.sin(2 * torch.pi * (440 + 220 * c) * time) for c in range(channels)])


def snr_db(audio: torch.Tensor, coded: torch.Tensor) -> float:
    error = (coded - audio).double().square().mean()
    return float(10 * torch.log10(audio.double().square().mean() / error))


@CODECS
@pytest.mark.parametrize("channels", [1, 2])
def test_the_result_is_aligned_and_worse_at_higher_levels(channels: int, codec: Any) -> None:
    audio = tones(channels)
    coded = [RandomLossyCoding(RATE, [codec], level, level, 1)(audio, torch.Generator()) for level in (0.0, 0.5, 1.0)]
    assert all(each.shape == audio.shape for each in coded)
    errors = [snr_db(audio, each) for each in coded]
    assert errors[0] > errors[1] > errors[2] > 0  # a delay of one sample would leave 18 dB at the first level
    assert errors[0] > 30


@CODECS
@pytest.mark.parametrize("samples", [0, 1, 100])
def test_short_segments_keep_their_length(samples: int, codec: Any) -> None:
    coding = RandomLossyCoding(RATE, [codec], probability=1)
    assert coding(tones(2, samples), torch.Generator()).shape == (2, samples)


def test_every_codec_is_drawn() -> None:
    coding, generator, audio = RandomLossyCoding(RATE, ["mp3", "opus"], 1, 1, 1), torch.Generator(), tones(1, 2000)
    alone = [RandomLossyCoding(RATE, [codec], 1, 1, 1)(audio, generator) for codec in ("mp3", "opus")]  # type: ignore[list-item]
    drawn = [coding(audio, generator.manual_seed(seed)) for seed in range(20)]
    counts = [sum(torch.equal(each, one) for each in drawn) for one in alone]
    assert sum(counts) == 20
    assert min(counts) > 3


def test_the_probability_is_that_of_coding() -> None:
    coding, generator, audio = RandomLossyCoding(RATE), torch.Generator().manual_seed(0), tones(1, 100)
    changed = np.mean([not torch.equal(coding(audio, generator), audio) for _ in range(200)])
    assert changed == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(200))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minimum_level": -0.1}, r"minimum_level must be a number in \[0, 1\], got -0.1"),
        ({"minimum_level": 0.9, "maximum_level": 0.5}, "expected minimum_level <= maximum_level, got 0.9 and 0.5"),
        ({"probability": 2}, r"probability must be a number in \[0, 1\], got 2"),
        ({"codecs": []}, r"codecs must be a list of 1 or more, got \[\]"),
        ({"codecs": ["aac"]}, "codecs.0 must be one of vorbis, mp3, opus, got 'aac'"),
        ({"sample_rate": 44100}, r"opus has the sampling rates \[8000, .*, 48000\] Hz, got 44100: leave it out"),
        ({"sample_rate": 22000, "codecs": ["mp3"]}, "mp3 has the sampling rates"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomLossyCoding(**{"sample_rate": RATE} | settings)
