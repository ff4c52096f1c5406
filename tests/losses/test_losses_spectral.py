"""Mel and STFT losses against NumPy in float64 written from the formulas, and their behaviour at the edges."""

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import MultiResolutionSTFT, MultiScaleMel, mel_distance

RATE = 24_000


def _pair(samples: int = 3001, channels: int = 1, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / RATE
    tones = sum((2 * torch.pi * hz * time).sin() for hz in (220.0, 1330.0, 7000.0))
    reference = 0.1 * tones + 0.02 * torch.randn(batch, channels, samples, generator=generator)
    return 0.8 * reference + 0.01 * torch.randn(batch, channels, samples, generator=generator), reference


def _audiocraft(rate: int = RATE) -> MultiScaleMel:
    return MultiScaleMel(rate, [6, 7, 8, 9, 10], f_min_hz=64.0, log_distance="mse")


def _numpy_frames(audio: np.ndarray, fft: int, hop: int) -> np.ndarray:
    starts = range(0, audio.shape[-1] - fft + 1, hop)
    return np.stack([audio[..., start : start + fft] for start in starts], axis=-2)


def _numpy_mel(audio: np.ndarray, window: int, f_min: float, mels: int = 64) -> np.ndarray:
    """Mel power of [*, T] with audiocraft's padding, from the definition of the HTK mel scale."""
    hop, samples = window // 4, audio.shape[-1]
    margin = (window - hop) // 2
    padded = np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(margin, margin)], mode="reflect")
    padded = np.pad(padded, [(0, 0)] * (audio.ndim - 1) + [(0, -samples % hop)])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(_numpy_frames(padded, window, hop) * hann)) ** 2 / (hann**2).sum()
    points = np.linspace(2595 * np.log10(1 + f_min / 700), 2595 * np.log10(1 + RATE / 2 / 700), mels + 2)
    edges = 700 * (10 ** (points / 2595) - 1)
    bins = np.linspace(0, RATE // 2, window // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return power @ np.clip(np.minimum(rising, falling), 0, None)


def _numpy_multi_scale_mel(
    estimate: Tensor, reference: Tensor, exponents: list[int], f_min: float, alphas: list[float], distance: str
) -> float:
    total = 0.0
    for exponent, alpha in zip(exponents, alphas, strict=True):
        a, b = (_numpy_mel(x.double().numpy(), 2**exponent, f_min) for x in (estimate, reference))
        difference = np.log10(1e-5 + a) - np.log10(1e-5 + b)
        squared = difference**2 if distance == "mse" else np.sqrt((difference**2).mean(axis=-1))
        total += np.abs(a - b).mean() + alpha * squared.mean()
    return float(total / sum(1 + alpha for alpha in alphas))


@pytest.mark.parametrize("samples", [769, 3000, 3001, 3333])
@pytest.mark.parametrize("channels", [1, 2])
def test_audiocraft_form_equals_numpy(samples: int, channels: int) -> None:
    estimate, reference = _pair(samples, channels)
    expected = _numpy_multi_scale_mel(estimate, reference, [6, 7, 8, 9, 10], 64.0, [1.0] * 5, "mse")
    assert _audiocraft()(estimate, reference).item() == pytest.approx(expected, rel=1e-5)
    assert mel_distance(estimate, reference, RATE).item() == pytest.approx(expected, rel=1e-5)


def test_paper_form_equals_numpy() -> None:
    estimate, reference = _pair()
    exponents = [5, 6, 7, 8, 9, 10, 11]
    expected = _numpy_multi_scale_mel(estimate, reference, exponents, 0.0, [1.0] * 7, "l2")
    assert MultiScaleMel(RATE, exponents)(estimate, reference).item() == pytest.approx(expected, rel=1e-5)


def test_alpha_is_the_weight_of_the_logarithmic_term_of_each_window() -> None:
    estimate, reference = _pair()
    alphas = [0.0, 2.0, 5.5]
    expected = _numpy_multi_scale_mel(estimate, reference, [7, 9, 8], 100.0, alphas, "mse")
    loss = MultiScaleMel(RATE, [7, 9, 8], f_min_hz=100.0, alpha=alphas, log_distance="mse")
    assert loss(estimate, reference).item() == pytest.approx(expected, rel=1e-5)


def test_without_normalisation_the_power_grows_by_the_energy_of_the_window() -> None:
    estimate, reference = _pair()
    energy = 256 * 3 / 8  # the mean square of a Hann window is 3/8
    raw = MultiScaleMel(RATE, [8], alpha=0.0, normalized=False)(estimate, reference)
    torch.testing.assert_close(raw, energy * MultiScaleMel(RATE, [8], alpha=0.0)(estimate, reference))


def test_frequencies_above_the_upper_edge_are_ignored() -> None:
    _, reference = _pair()
    time = torch.arange(reference.shape[-1]) / RATE
    hiss = reference + 0.05 * (2 * torch.pi * 9000 * time).sin()
    narrow, wide = MultiScaleMel(RATE, [10], f_max_hz=6000.0), MultiScaleMel(RATE, [10])
    assert narrow(hiss, reference).item() < 0.03 * wide(hiss, reference).item()


def test_floor_bounds_the_penalty_for_silence() -> None:
    _, reference = _pair()
    silence = torch.zeros_like(reference)
    values = [MultiScaleMel(RATE, [9], floor=floor)(silence, reference).item() for floor in (1e-7, 1e-5, 1e-3)]
    assert values[0] > values[1] > values[2]


def test_float64_gradients_match_finite_differences() -> None:
    estimate, reference = (signal[:1, :, :40].double() for signal in _pair())
    estimate.requires_grad_()
    for loss in (
        MultiScaleMel(RATE, [5, 6]),
        MultiScaleMel(RATE, [5, 6], log_distance="mse"),
        MultiResolutionSTFT([16, 32], [5, 16], [12, 32]),
    ):
        module = loss.double()
        assert torch.autograd.gradcheck(lambda x, m=module: m(x, reference), estimate, eps=1e-7, atol=1e-5)


def test_gradient_equals_that_of_a_plain_autograd_spectrogram() -> None:
    estimate, reference = _pair()
    estimate.requires_grad_()
    loss = MultiScaleMel(RATE, [8], f_min_hz=64.0, log_distance="mse")
    (gradient,) = torch.autograd.grad(loss(estimate, reference), estimate)

    def mel(audio: Tensor) -> Tensor:
        audio = torch.nn.functional.pad(audio.double(), (96, 96), mode="reflect")
        audio = torch.nn.functional.pad(audio, (0, -3001 % 64)).flatten(0, 1)
        hann = torch.hann_window(256, dtype=torch.float64)
        spectrum = torch.stft(audio, 256, 64, window=hann, center=False, return_complex=True).mT
        return spectrum.abs().square() / hann.square().sum() @ loss.resolutions[0].filters[::2].double()

    a, b = mel(estimate), mel(reference)
    filled = a.shape[-1] / 64
    plain = filled * ((a - b).abs().mean() + ((a + 1e-5).log10() - (b + 1e-5).log10()).square().mean()) / 2
    (expected,) = torch.autograd.grad(plain, estimate)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


ALL_LOSSES = [MultiScaleMel(RATE, [5, 8, 10]), _audiocraft(), MultiResolutionSTFT()]


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_distance_to_itself_is_zero_with_finite_gradient(loss: torch.nn.Module) -> None:
    _, reference = _pair()
    estimate = reference.clone().requires_grad_()
    value = loss(estimate, reference)
    (gradient,) = torch.autograd.grad(value, estimate)
    assert value.item() == 0.0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("silent", ["estimate", "reference", "both"])
def test_silence_gives_finite_values_and_gradients(loss: torch.nn.Module, silent: str) -> None:
    estimate, reference = _pair()
    estimate = (torch.zeros_like(estimate) if silent != "reference" else estimate.clone()).requires_grad_()
    reference = torch.zeros_like(reference) if silent != "estimate" else reference
    value = loss(estimate, reference)
    (gradient,) = torch.autograd.grad(value, estimate)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (value.item() == 0.0) == (silent == "both")


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_more_noise_is_a_greater_distance(loss: torch.nn.Module) -> None:
    _, reference = _pair()
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))
    values = [loss(reference + level * noise, reference).item() for level in (0.001, 0.01, 0.1)]
    assert values == sorted(values)
    assert values[2] > 2 * values[0]


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_autocast_changes_nothing_and_bfloat16_gives_float32(loss: torch.nn.Module) -> None:
    estimate, reference = _pair()
    expected = loss(estimate, reference)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(estimate, reference), expected)
    assert loss(estimate.bfloat16(), reference.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_no_gradient_flows_to_the_reference(loss: torch.nn.Module) -> None:
    estimate, reference = _pair()
    loss(estimate.requires_grad_(), reference.requires_grad_()).backward()
    assert estimate.grad is not None
    assert reference.grad is None


def test_mel_loss_of_stereo_is_the_mean_over_its_channels() -> None:
    estimate, reference = _pair(channels=2)
    loss = _audiocraft()
    each = [loss(estimate[:, [c]], reference[:, [c]]) for c in (0, 1)]
    torch.testing.assert_close(loss(estimate, reference), torch.stack(each).mean())


def test_mel_distance_has_gradients_after_a_first_use_in_inference_mode() -> None:
    estimate, reference = _pair()
    with torch.inference_mode():
        first = mel_distance(estimate, reference, 16_000)
    second = mel_distance(estimate.requires_grad_(), reference, 16_000)
    second.backward()
    assert first.item() == second.item() == _audiocraft(16_000)(estimate, reference).item()


def test_multi_resolution_stft_equals_numpy() -> None:
    estimate, reference = _pair(channels=2)
    ffts, hops, windows = [256, 512], [30, 120], [200, 480]
    expected = []
    for fft, hop, window in zip(ffts, hops, windows, strict=True):
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        hann = np.pad(hann, (fft - window) // 2)
        magnitudes = []
        for signal in (estimate, reference):
            padded = np.pad(signal.double().numpy(), ((0, 0), (0, 0), (fft // 2, fft // 2)), mode="reflect")
            spectrum = np.fft.rfft(_numpy_frames(padded, fft, hop) * hann)
            magnitudes.append(np.sqrt(np.maximum(np.abs(spectrum) ** 2, 1e-7)))
        a, b = magnitudes
        convergence = np.sqrt(((b - a) ** 2).sum()) / np.sqrt((b**2).sum())
        expected.append(convergence + np.abs(np.log(a) - np.log(b)).mean())
    loss = MultiResolutionSTFT(ffts, hops, windows)
    assert loss(estimate, reference).item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_spectral_convergence_of_half_the_signal_is_a_half_and_its_log_distance_log_two() -> None:
    reference = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0))
    value = MultiResolutionSTFT()(0.5 * reference, reference).item()
    assert value == pytest.approx(0.5 + np.log(2), abs=1e-3)


@pytest.mark.parametrize(
    ("loss", "minimum"), [(_audiocraft(), 385), (MultiScaleMel(RATE, [11]), 769), (MultiResolutionSTFT(), 1025)]
)
def test_shortest_signal_works_and_a_shorter_one_is_an_error(loss: MultiScaleMel, minimum: int) -> None:
    assert loss.minimum_samples == minimum
    assert loss(torch.ones(1, 1, minimum), torch.zeros(1, 1, minimum)).isfinite()
    short = torch.zeros(1, 1, minimum - 1)
    with pytest.raises(ValueError, match=f"at least {minimum} samples, got audio of {minimum - 1}"):
        loss(short, short)
    with pytest.raises(ValueError, match="one shape"):
        loss(short, short[:, :, 1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_distance": "l3"}, "log_distance to be one of"),
        ({"window_exponents": []}, "one or more window_exponents"),
        ({"window_exponents": [1]}, "at least 2"),
        ({"alpha": [1.0, 1.0]}, "each of 1 windows"),
        ({"alpha": -1.0}, "alpha >= 0"),
        ({"floor": 0.0}, "floor > 0"),
        ({"f_min_hz": 13_000.0}, "f_min_hz < f_max_hz"),
        ({"f_max_hz": 13_000.0}, "f_max_hz <= 12000"),
        ({"window_exponents": [5], "f_min_hz": 100.0, "f_max_hz": 200.0}, "expected a bin of a 32-sample window"),
    ],
)
def test_impossible_mel_settings_are_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiScaleMel(**({"sample_rate": RATE, "window_exponents": [9]} | arguments))  # type: ignore[arg-type]


def test_unequal_lists_of_resolutions_are_errors() -> None:
    with pytest.raises(ValueError, match="got 2 ffts, 1 hops, 2 windows"):
        MultiResolutionSTFT([512, 256], [64], [512, 256])


def test_windows_and_filters_are_not_saved() -> None:
    assert all(not loss.state_dict() for loss in ALL_LOSSES)
