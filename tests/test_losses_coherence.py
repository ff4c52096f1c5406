"""The coherence with a codec's frames against NumPy in float64, worked numbers, and its behaviour at the edges."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import FrameCoherence, MultiScaleMel

RATE, STRIDES, HOP = 24_000, [8, 5, 4, 2], 320


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def repeated(frames: int, channels: int = 1, seed: int = 9) -> Tensor:
    """One frame of noise over and over. Shape: -> [1, channels, frames * HOP]."""
    return noise(1, channels, HOP, seed=seed).repeat(1, 1, frames)


def numpy_coherence(audio: np.ndarray, hop: int, frames: int, floor: float) -> np.ndarray:
    """Shape: [T] -> [bins]."""
    window = frames * hop
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(audio) - window + 1, hop)
    spectra = [np.fft.rfft(audio[s : s + window] * hann) / np.sqrt((hann**2).sum()) for s in starts]
    power = sum(np.abs(spectrum) ** 2 + floor for spectrum in spectra)
    return np.abs(sum(spectra)) ** 2 / (len(spectra) * power)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_equals_numpy(channels: int, frames: int) -> None:
    estimate, reference = noise(2, channels, 3001, seed=1), noise(2, channels, 3001, seed=2)
    estimate = estimate + 0.5 * noise(1, 1, 100, seed=3).repeat(1, 1, 31)[..., :3001]
    expected = np.mean(
        [
            np.maximum(0, numpy_coherence(e, 100, frames, 1e-4) - numpy_coherence(r, 100, frames, 1e-4)).mean()
            for e, r in zip(*(x.double().flatten(0, 1).numpy() for x in (estimate, reference)), strict=True)
        ]
    )
    assert FrameCoherence([10, 10], frames, floor=1e-4)(estimate, reference).item() == pytest.approx(expected, rel=1e-4)


def test_worked_numbers() -> None:
    loss, silence = FrameCoherence(STRIDES), torch.zeros(1, 1, 40 * HOP)
    # All that repeats keeps its phase: but for the floor and the bins at 0 Hz and half the rate, 1.
    assert loss(repeated(40), silence).item() == pytest.approx(1, abs=0.02)
    # Independent spectra add up as their powers do: γ² = 1 / F = 1 / 39. Hann windows that overlap by half have a
    # correlation of 1/6, which by the phases of neighbouring frames adds up to nothing on average.
    assert loss(noise(20, 1, 40 * HOP), silence.expand(20, 1, -1)).item() == pytest.approx(1 / 39, rel=0.1)
    # Half of the power repeats.
    half = (repeated(40) + noise(1, 1, 40 * HOP)) / 2**0.5
    assert loss(half, silence).item() == pytest.approx(0.5, abs=0.1)


def test_a_tone_of_the_frame_rate_repeats_and_one_between_does_not() -> None:
    time = torch.arange(40 * HOP) / RATE
    silence = torch.zeros(1, 1, 40 * HOP)
    on, between = (0.1 * (2 * torch.pi * hertz * time).sin()[None, None] for hertz in (75.0 * 40, 75.0 * 40 + 15))
    loss = FrameCoherence(STRIDES)
    # A Hann window of two frames holds a tone in three bins of 321.
    assert loss(on, silence).item() > 2.5 / 321
    assert loss(between, silence).item() < 0.1 * loss(on, silence).item()


def test_what_the_reference_repeats_may_be_repeated() -> None:
    loss = FrameCoherence(STRIDES)
    reference = repeated(40) + 0.01 * noise(1, 1, 40 * HOP)
    assert loss(0.5 * reference, reference).item() < 1e-4
    assert loss(repeated(40, seed=5), repeated(40)).item() < 1e-3  # which waveform it is, is for other losses
    assert loss(noise(1, 1, 40 * HOP), reference).item() < 1e-4


def test_level_does_not_matter_above_the_floor() -> None:
    loss, reference = FrameCoherence(STRIDES), noise(1, 1, 40 * HOP)
    estimate = repeated(40) + noise(1, 1, 40 * HOP, seed=2)
    assert loss(estimate / 8, reference).item() == pytest.approx(loss(estimate, reference).item(), rel=0.01)
    assert loss(1e-5 * estimate, reference).item() < 1e-3


def test_following_it_takes_the_repetition_away_and_mel_does_not() -> None:
    reference = noise(4, 1, 40 * HOP, seed=3)
    start = repeated(40).expand(4, -1, -1)
    after = []
    for loss in (FrameCoherence(STRIDES), MultiScaleMel(RATE, [7, 8, 9])):
        estimate = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([estimate], lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            loss(estimate, reference).backward()
            optimizer.step()
        after.append(FrameCoherence(STRIDES)(estimate, reference).item())
    assert after[0] < 0.05
    assert after[1] > 0.3


def test_identity_and_silence() -> None:
    loss, audio, silence = FrameCoherence(STRIDES), noise(2, 1, 4000), torch.zeros(2, 1, 4000)
    for estimate, reference in ((audio, audio), (silence, audio), (silence, silence)):
        leaf = estimate.clone().requires_grad_()
        value = loss(leaf, reference)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert value.item() == 0.0
        assert gradient.isfinite().all()


def test_float64_gradients_match_finite_differences() -> None:
    loss = FrameCoherence([4, 2]).double()
    estimate = noise(1, 1, 48, seed=1).double().requires_grad_()
    reference = torch.zeros(1, 1, 48, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, reference), estimate, eps=1e-7, atol=1e-5)


def test_no_gradient_goes_to_the_reference() -> None:
    estimate, reference = repeated(10).requires_grad_(), noise(1, 1, 10 * HOP).requires_grad_()
    FrameCoherence(STRIDES)(estimate, reference).backward()
    assert estimate.grad is not None
    assert reference.grad is None


def test_autocast_changes_nothing_and_bfloat16_gives_float32() -> None:
    loss, estimate, reference = FrameCoherence(STRIDES), repeated(10), noise(1, 1, 10 * HOP)
    expected = loss(estimate, reference)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(estimate, reference), expected)
    assert loss(estimate.bfloat16(), reference.bfloat16()).dtype == torch.float32


def test_a_signal_of_one_window_is_refused() -> None:
    loss = FrameCoherence(STRIDES)
    assert loss.minimum_samples == 3 * HOP
    assert loss(noise(1, 1, 3 * HOP), noise(1, 1, 3 * HOP, seed=1)).isfinite()
    with pytest.raises(ValueError, match="at least 960 samples, got audio of 959"):
        loss(noise(1, 1, 959), noise(1, 1, 959))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": [8, 0]}, "one frame or more, got 2 of 0"),
        ({"strides": STRIDES, "frames": 0}, "one frame or more, got 0 of 320"),
        ({"strides": [15, 5], "frames": 1}, "an even window"),
        ({"strides": STRIDES, "floor": 0.0}, "floor > 0"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameCoherence(**arguments)
