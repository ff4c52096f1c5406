"""The tonality loss against NumPy in float64, worked numbers, and its behaviour at the edges."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import MultiScaleMel, Tonality

RATE, HOP = 24_000, 320
SILENCE = torch.zeros(1, 1, 12_000)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def repeated(frames: int, seed: int = 9) -> Tensor:
    """One frame of noise over and over: tones at multiples of 75 Hz. Shape: -> [1, 1, frames * HOP]."""
    return noise(1, 1, HOP, seed=seed).repeat(1, 1, frames)


def turned(audio: Tensor, hertz: float) -> Tensor:
    """All frequencies moved up. Shape: audio [B, C, T] -> [B, C, T]."""
    spectrum = torch.fft.fft(audio)
    spectrum[..., audio.shape[-1] // 2 :] = 0
    turn = torch.exp(2j * torch.pi * hertz / RATE * torch.arange(audio.shape[-1]))
    return 2 * (torch.fft.ifft(spectrum) * turn).real


def numpy_tonality(audio: np.ndarray, window: int, bins: int, floor: float) -> np.ndarray:
    """Shape: [T] -> [bands]."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(audio) - window + 1, window // 4)
    spectra = [np.fft.rfft(audio[s : s + window] * hann) / np.sqrt((hann**2).sum()) for s in starts]
    power = np.mean([np.abs(spectrum) ** 2 for spectrum in spectra], 0) + floor
    bands = [power[k : k + bins] for k in range(0, window // 2, bins)]
    return np.array([np.log((band**2).mean() / band.mean() ** 2) for band in bands])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("window", "bins"), [(1024, 64), (256, 2), (512, 256)])
def test_equals_numpy(channels: int, window: int, bins: int) -> None:
    estimate, reference = repeated(10).expand(2, channels, -1) + noise(2, channels, 3200), noise(2, channels, 3200)
    expected = np.mean(
        [
            np.maximum(0, numpy_tonality(e, window, bins, 1e-4) - numpy_tonality(r, window, bins, 1e-4))
            for e, r in zip(*(x.double().flatten(0, 1).numpy() for x in (estimate, reference)), strict=True)
        ]
    )
    loss = Tonality(window, bins, floor=1e-4)
    assert loss(estimate, reference).item() == pytest.approx(expected, rel=1e-4)


def test_worked_numbers() -> None:
    # One window of white noise: powers are exponentially distributed, and of those E P² = 2 (E P)².
    one = Tonality(4096)
    many = noise(400, 1, 4096)
    # The mean is over 64 bins, of which about 40 are independent. That reduces the result by 1 / 40.
    assert one(many, torch.zeros_like(many)).item() == pytest.approx(math.log(2) - 1 / 40, abs=0.03)
    # A sine with whole periods lies in three bins of one band, with powers 1/4, 1, 1/4: 64 * (9/8) / (3/2)² = 32.
    tone = (2 * torch.pi * 600 / 4096 * torch.arange(12_000).double()).sin().float()[None, None]
    assert 32 * one(tone, SILENCE).item() == pytest.approx(math.log(32), abs=0.02)


@pytest.mark.parametrize("hertz", [0.0, 7.0, 37.5])
def test_tones_count_between_bins_as_on_bins(hertz: float) -> None:
    """A repeated frame of noise has lines 12.8 bins apart, with powers of about 1/4, 1, 1/4 on a bin. A band has five.

    Their powers are exponentially distributed, so that Σ P² / (Σ P)² is 2 / 6 on average. Noise has 1.2.
    """
    lines = turned(repeated(38)[..., :12_000], hertz)
    assert Tonality()(lines, noise(1, 1, 12_000)).item() == pytest.approx(math.log(64 / 2 * 2 / 6 / 1.2), abs=0.1)
    assert Tonality()(noise(1, 1, 12_000, seed=1), noise(1, 1, 12_000)).item() < 0.05


def test_tones_of_the_reference_are_not_penalised() -> None:
    loss, tones = Tonality(), repeated(38)[..., :12_000]
    assert loss(0.5 * tones, tones).item() < 1e-3
    assert loss(turned(tones, 7.0), tones).item() < 0.1 * loss(tones, noise(1, 1, 12_000)).item()
    assert loss(noise(1, 1, 12_000), tones).item() < 1e-3


def test_level_does_not_matter_above_the_floor() -> None:
    loss, reference = Tonality(), noise(1, 1, 12_000)
    estimate = repeated(38)[..., :12_000] + noise(1, 1, 12_000, seed=2)
    assert loss(estimate / 8, reference).item() == pytest.approx(loss(estimate, reference).item(), rel=0.01)
    assert loss(1e-6 * estimate, reference).item() < 1e-3


@pytest.mark.slow
def test_gradient_descent_on_it_removes_tones_and_on_mel_does_not() -> None:
    reference = noise(4, 1, 12_000, seed=3)
    start = repeated(38)[..., :12_000].expand(4, -1, -1)
    after = []
    for loss in (Tonality(), MultiScaleMel(RATE, [7, 8, 9])):
        estimate = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([estimate], lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            loss(estimate, reference).backward()
            optimizer.step()
        after.append(Tonality()(estimate, reference).item())
    assert after[0] < 0.1
    assert after[1] > 0.7


def test_identity_and_silence() -> None:
    loss, audio, silence = Tonality(1024), noise(2, 1, 4000), torch.zeros(2, 1, 4000)
    for estimate, reference in ((audio, audio), (silence, audio), (silence, silence)):
        leaf = estimate.clone().requires_grad_()
        value = loss(leaf, reference)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert value.item() == 0.0
        assert gradient.isfinite().all()


def test_float64_gradients_match_finite_differences() -> None:
    loss = Tonality(16, band_bins=4).double()
    estimate = noise(1, 1, 40, seed=1).double().requires_grad_()
    reference = torch.zeros(1, 1, 40, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, reference), estimate, eps=1e-7, atol=1e-5)


def test_no_gradient_flows_to_the_reference() -> None:
    estimate, reference = repeated(38).requires_grad_(), noise(1, 1, 38 * HOP).requires_grad_()
    Tonality()(estimate, reference).backward()
    assert estimate.grad is not None
    assert reference.grad is None


def test_autocast_changes_nothing_and_bfloat16_gives_float32() -> None:
    loss, estimate, reference = Tonality(), repeated(38), noise(1, 1, 38 * HOP)
    expected = loss(estimate, reference)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(estimate, reference), expected)
    assert loss(estimate.bfloat16(), reference.bfloat16()).dtype == torch.float32


def test_a_signal_shorter_than_the_window_is_an_error() -> None:
    loss = Tonality(1024)
    assert loss.minimum_samples == 1024
    assert loss(noise(1, 1, 1024), noise(1, 1, 1024, seed=1)).isfinite()
    with pytest.raises(ValueError, match="at least 1024 samples, got audio of 1023"):
        loss(noise(1, 1, 1023), noise(1, 1, 1023))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_samples": 4096, "band_bins": 60}, "divide the 2048 bins, got 60"),
        ({"window_samples": 130, "band_bins": 65}, "a multiple of 4, got 130"),
        ({"window_samples": 0}, "a multiple of 4, got 0"),
        ({"band_bins": 1}, "at least 2"),
        ({"window_samples": 64, "band_bins": 64}, "divide the 32 bins, got 64"),
        ({"floor": 0.0}, "floor > 0"),
    ],
)
def test_impossible_settings_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tonality(**arguments)
