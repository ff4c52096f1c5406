"""Reverberation: decay of synthetic responses, measured times, and which recorded responses are used."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import DataError, RandomReverb, level_dbfs
from data.reverberation import convolve, reverberation_time, synthetic_response

RATE = 8000


def exponential(rt60_seconds: float, seconds: float) -> torch.Tensor:
    return 10 ** (-3 * torch.arange(round(seconds * RATE), dtype=torch.float64) / (rt60_seconds * RATE))


@pytest.mark.parametrize("rt60_seconds", [0.3, 0.7, 1.3])
def test_the_time_of_an_exponential_decay_is_that_of_its_formula(rt60_seconds: float) -> None:
    assert reverberation_time(exponential(rt60_seconds, 2.0), RATE) == pytest.approx(rt60_seconds, rel=1e-3)
    assert np.isnan(reverberation_time(torch.tensor([1.0, 0.0, 0.0]), RATE))


def test_synthetic_responses_decay_as_asked_and_have_the_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    responses = [synthetic_response(0.6, 3.0, RATE, generator) for _ in range(30)]
    times = [reverberation_time(response, RATE) for response in responses]
    assert np.mean(times) == pytest.approx(0.6, rel=0.03)
    for response in responses:
        assert response.shape == (4800,)
        assert response[0] == 1
        assert -10 * np.log10(float(response[1:].double().square().sum())) == pytest.approx(3.0, abs=1e-4)


def test_the_convolution_is_that_of_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    audio, response = torch.randn(2, 300, generator=generator), torch.randn(450, generator=generator)
    expected = [np.convolve(channel.double().numpy(), response.double().numpy())[:300] for channel in audio]
    np.testing.assert_allclose(convolve(audio, response).numpy(), expected, atol=1e-4)


def test_times_are_in_the_range_and_the_level_is_kept() -> None:
    reverb, generator = RandomReverb(RATE, probability=1), torch.Generator().manual_seed(0)
    impulse = torch.zeros(1, 2 * RATE)
    impulse[0, 0] = 0.2
    rooms = [reverb(impulse, generator) for _ in range(60)]
    assert all(level_dbfs(room) == pytest.approx(level_dbfs(impulse), abs=1e-3) for room in rooms)
    assert all(room[0].abs().argmax() == 0 for room in rooms)  # the direct path is not delayed
    times = np.array([reverberation_time(room[0], RATE) for room in rooms])
    assert 0.25 < times.min() < 0.5
    assert 1.1 < times.max() < 1.5
    assert np.mean(times) == pytest.approx(0.8, abs=4 / np.sqrt(12 * 60))


def test_the_probability_is_that_of_reverberation() -> None:
    reverb, generator = RandomReverb(RATE, probability=0.2), torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(1, 100, generator=generator)
    changed = np.mean([not torch.equal(reverb(audio, generator), audio) for _ in range(500)])
    assert changed == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 500))
    assert torch.equal(RandomReverb(RATE, 1)(torch.zeros(1, 100), generator), torch.zeros(1, 100))


def test_recorded_responses_are_aligned_and_chosen_by_their_time(tmp_path: Path) -> None:
    """Three responses start after 100 samples; one has a time in the range, and one file is no audio."""
    for name, rt60_seconds in (("short", 0.1), ("room", 0.5), ("hall", 2.0)):
        response = np.concatenate([np.zeros(100), 0.3 * exponential(rt60_seconds, 2.0).numpy()])
        soundfile.write(tmp_path / f"{name}.wav", response, RATE, subtype="FLOAT")
    reverb = RandomReverb(RATE, 1, 0.3, 1.3, str(tmp_path))
    impulse = torch.zeros(1, 1000)
    impulse[0, 0] = 0.5
    expected = exponential(0.5, 1000 / RATE).float()
    for seed in range(5):
        room = reverb(impulse, torch.Generator().manual_seed(seed))[0]
        torch.testing.assert_close(room / room[0], expected, atol=1e-5, rtol=1e-4)
    (tmp_path / "room.wav").unlink()
    with pytest.raises(DataError, match=r"none of 50 impulse responses .* has a reverberation time of 0\.3 to 1\.3 s"):
        reverb(impulse, torch.Generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((1.2,), r"probability must be a number in \[0, 1\], got 1.2"),
        ((0.2, 0.0), r"minimum_rt60_seconds must be a number in \(0, 86400\], got 0.0"),
        ((0.2, 1.3, 0.3), "expected minimum_rt60_seconds <= maximum_rt60_seconds, got 1.3 and 0.3"),
    ],
)
def test_settings_out_of_range_are_refused(settings: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomReverb(RATE, *settings)
