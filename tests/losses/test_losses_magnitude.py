"""The loss of STFT magnitudes against NumPy in float64, and its behaviour at the edges."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import MultiScaleMagnitude

WINDOWS = [256, 64, 16]


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numpy_distance(estimate: np.ndarray, reference: np.ndarray, weight: float, floor: float) -> float:
    """Shape: [N, T] twice. From the formula, with centred frames."""
    terms = []
    for window in WINDOWS:
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        spectra = []
        for audio in (estimate, reference):
            padded = np.pad(audio, ((0, 0), (window // 2, window // 2)), mode="reflect")
            starts = range(0, padded.shape[1] - window + 1, window // 4)
            frames = np.stack([np.fft.rfft(padded[:, start : start + window] * hann) for start in starts], 1)
            spectra.append(np.sqrt(np.abs(frames) ** 2 + 1e-7) / np.sqrt(0.375 * window))
        logs = [np.log(spectrum + floor) for spectrum in spectra]
        rms = np.sqrt(((logs[0] - logs[1]) ** 2).mean(-1))
        terms.append(weight * np.abs(spectra[0] - spectra[1]).mean() + rms.mean())
    return float(np.mean(terms))


@pytest.mark.parametrize(("channels", "samples"), [(1, 129), (2, 1000), (1, 777)])
@pytest.mark.parametrize(("weight", "floor"), [(10.0, 1e-3), (0.0, 0.5), (3.0, 1e-5)])
def test_equals_numpy(channels: int, samples: int, weight: float, floor: float) -> None:
    estimate, reference = noise(2, channels, samples), noise(2, channels, samples, seed=1, level=0.02)
    expected = numpy_distance(
        *(x.double().flatten(0, 1).numpy() for x in (estimate, reference)), weight=weight, floor=floor
    )
    loss = MultiScaleMagnitude(WINDOWS, linear_weight=weight, floor=floor)
    assert loss(estimate, reference).item() == pytest.approx(expected, rel=1e-5)
    assert loss.double()(estimate.double(), reference.double()).item() == pytest.approx(expected, rel=1e-6)


def test_worked_numbers() -> None:
    """Half the amplitude: the logarithms differ by log 2 in every bin far above the floor."""
    reference = noise(4, 1, 4000, level=10.0)
    logarithmic = MultiScaleMagnitude(WINDOWS, linear_weight=0.0, floor=1e-6)(reference / 2, reference)
    assert logarithmic.item() == pytest.approx(np.log(2), rel=1e-3)
    # Magnitudes of white noise are Rayleigh distributed with a mean of sqrt(pi) / 2 times its standard deviation.
    linear = MultiScaleMagnitude([1024], linear_weight=1.0, floor=1e6)(torch.zeros_like(reference), reference)
    assert linear.item() == pytest.approx(10 * np.sqrt(np.pi) / 2, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_and_silence_have_finite_gradients(dtype: torch.dtype) -> None:
    loss, audio, silence = MultiScaleMagnitude(WINDOWS), noise(2, 1, 500).to(dtype), torch.zeros(2, 1, 500, dtype=dtype)
    for estimate, reference in ((audio, audio), (silence, audio), (audio, silence), (silence, silence)):
        leaf = estimate.clone().requires_grad_()
        value = loss(leaf, reference)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert value.dtype == torch.float32
        assert (value.item() == 0.0) == torch.equal(estimate, reference)
        assert gradient.isfinite().all()


def test_from_silence_the_gradient_points_to_sound() -> None:
    """With a floor that is exactly zero, the magnitude of silence would have no gradient."""
    loss, reference = MultiScaleMagnitude(WINDOWS), noise(1, 1, 500)
    estimate = 1e-6 * noise(1, 1, 500, seed=2)
    estimate.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(estimate, reference), estimate)
    assert float((gradient * estimate.detach()).sum()) < 0


def test_float64_gradients_match_finite_differences() -> None:
    loss = MultiScaleMagnitude([16, 8]).double()
    estimate, reference = noise(1, 1, 40).double().requires_grad_(), noise(1, 1, 40, seed=1).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, reference), estimate, eps=1e-7, atol=1e-5)


def test_autocast_changes_nothing_and_no_gradient_flows_to_the_reference() -> None:
    loss = MultiScaleMagnitude(WINDOWS)
    estimate, reference = noise(1, 1, 500).requires_grad_(), noise(1, 1, 500, seed=1).requires_grad_()
    expected = loss(estimate, reference)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(estimate, reference), expected)
    expected.backward()
    assert reference.grad is None


def test_lengths_and_state() -> None:
    loss = MultiScaleMagnitude(WINDOWS)
    assert (loss.minimum_samples, loss.window_samples) == (129, 256)
    assert loss.state_dict() == {}
    with pytest.raises(ValueError, match="at least 129 samples, got audio of 128"):
        loss(noise(1, 1, 128), noise(1, 1, 128))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": []}, r"one or more windows that are multiples of 4, got \[\]"),
        ({"windows": [1024, 30]}, r"multiples of 4, got \[1024, 30\]"),
        ({"linear_weight": -1.0}, "linear_weight >= 0, got -1.0"),
        ({"floor": 0.0}, "floor > 0, got 0.0"),
    ],
)
def test_settings_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiScaleMagnitude(**arguments)
