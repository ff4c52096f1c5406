"""Signal metrics against independent NumPy references and worked numbers, and their behaviour at the edges."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.evaluation import (
    mel_distance,
    ripple_db,
    score_audio,
    select_metrics,
    si_sdr_db,
    stft_distance,
    validate,
)
from losses.spectral import mel_distance as mel_loss

SAMPLE_RATE = 24000
SIGNAL_METRICS = select_metrics(["mel_distance", "stft_distance", "si_sdr_db", "ripple_db"])


def scored(estimate: Tensor, reference: Tensor) -> dict[str, Tensor]:
    return score_audio(estimate, reference, SAMPLE_RATE, SIGNAL_METRICS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numpy_stft_distance(estimate: np.ndarray, reference: np.ndarray) -> float:
    """One channel, centred frames with reflection padding, in plain loops."""
    total = 0.0
    for n in (2048, 512):
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
        magnitudes = []
        for audio in (estimate, reference):
            padded = np.pad(audio.astype(np.float64), n // 2, mode="reflect")
            starts = range(0, len(padded) - n + 1, n // 4)
            magnitudes.append(np.abs([np.fft.rfft(padded[s : s + n] * hann) for s in starts]))
        e, r = magnitudes
        total += np.abs(e - r).mean()
        total += np.abs(np.log10(np.maximum(e**2, 1e-5)) - np.log10(np.maximum(r**2, 1e-5))).mean()
    return total


def numpy_ripple_db(estimate: np.ndarray, reference: np.ndarray, rate: int, n: int) -> float:
    """Ripple of audio [C, T] in plain loops; n samples per frame."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    levels = []
    for audio in (estimate, reference):
        starts = range(0, audio.shape[1] - n + 1, n // 4)
        power = np.mean([np.abs(np.fft.rfft(channel[s : s + n] * hann)) ** 2 for channel in audio for s in starts], 0)
        levels.append(10 * np.log10(power + 1e-9 * (hann**2).sum()))
    ratio = levels[0] - levels[1]
    hertz = np.arange(len(ratio)) * rate / n
    uneven = [r - ratio[np.abs(hertz - f) <= 190].mean() for r, f in zip(ratio, hertz, strict=True)]
    return float(np.std(np.array(uneven)[(hertz >= min(2500, rate / 6)) & (hertz <= 11 / 24 * rate)]))


def test_si_sdr_of_known_distortions() -> None:
    t = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    reference = torch.sin(2 * math.pi * 440 * t)
    orthogonal = torch.cos(2 * math.pi * 440 * t)
    # An orthogonal part with a tenth of the amplitude has a hundredth of the power: 20 dB at any gain.
    estimates = torch.stack([reference + 0.1 * orthogonal, 3 * (reference + 0.01 * orthogonal)])[:, None]
    scores = si_sdr_db(estimates, reference.expand(2, 1, -1))
    torch.testing.assert_close(scores, torch.tensor([20.0, 40.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("channels", [1, 2])
def test_si_sdr_equals_torchmetrics(channels: int) -> None:
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio  # takes a second to import

    reference = noise(3, channels, 5000, seed=1)
    estimate = 0.5 * reference + torch.tensor([1.0, 0.1, 0.01])[:, None, None] * noise(3, channels, 5000, seed=2)
    expected = scale_invariant_signal_distortion_ratio(estimate, reference).mean(1)
    torch.testing.assert_close(si_sdr_db(estimate, reference), expected, rtol=0, atol=1e-3)


def test_stored_values() -> None:
    """Pinned scores of three tones in white noise from NumPy's generator with seed 0."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    reference = 0.1 * sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 1330, 7000))
    estimate = reference + 0.01 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    pair = (torch.from_numpy(audio).float()[None, None] for audio in (estimate, reference))
    scores = {name: float(value) for name, value in scored(*pair).items()}
    assert scores == pytest.approx(
        {"mel_distance": 0.630773, "stft_distance": 6.22036, "si_sdr_db": 21.79895, "ripple_db": 3.417058}, rel=1e-4
    )


@pytest.mark.parametrize("channels", [1, 2])
def test_stft_distance_equals_numpy(channels: int) -> None:
    estimate, reference = noise(2, channels, 5000, seed=1), noise(2, channels, 5000, seed=2)
    expected = [
        np.mean([numpy_stft_distance(e.numpy(), r.numpy()) for e, r in zip(*pair, strict=True)])
        for pair in zip(estimate, reference, strict=True)
    ]
    torch.testing.assert_close(stft_distance(estimate, reference), torch.tensor(expected).float(), rtol=1e-4, atol=0)


def test_stft_distance_of_a_gain() -> None:
    # Half the amplitude moves each log10 power by log10(4) = 0.602 in both windows, and halves the magnitudes.
    reference = noise(1, 1, 8000)
    magnitudes = [
        torch.stft(reference[0], n, n // 4, window=torch.hann_window(n), return_complex=True).abs().mean()
        for n in (2048, 512)
    ]
    expected = 2 * math.log10(4) + 0.5 * torch.stack(magnitudes).sum()
    torch.testing.assert_close(stft_distance(reference / 2, reference), expected.reshape(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("rate", "channels", "window"), [(8000, 1, 1024), (24000, 1, 4096), (24000, 2, 4096), (44100, 1, 8192)]
)
def test_ripple_equals_numpy(rate: int, channels: int, window: int) -> None:
    estimate, reference = noise(2, channels, rate, seed=1), noise(2, channels, rate, seed=2)
    expected = [
        numpy_ripple_db(e.double().numpy(), r.double().numpy(), rate, window)
        for e, r in zip(estimate, reference, strict=True)
    ]
    torch.testing.assert_close(ripple_db(estimate, reference, rate), torch.tensor(expected).float(), rtol=1e-3, atol=0)


def test_ripple_detects_a_repeated_frame_that_the_mel_distance_misses() -> None:
    hop, seconds = 320, 3
    reference, other = (noise(1, 1, seconds * SAMPLE_RATE, seed=seed) for seed in (1, 2))
    repeated = noise(1, 1, hop, seed=3).repeat(1, 1, seconds * SAMPLE_RATE // hop)
    assert ripple_db(other, reference, SAMPLE_RATE) == pytest.approx(1.0, abs=0.1)
    assert ripple_db(repeated, reference, SAMPLE_RATE) > 20
    # Equal parts of the repeated frame and of independent noise.
    assert 3 < ripple_db(math.sqrt(0.5) * (repeated + other), reference, SAMPLE_RATE) < 10
    mel = [mel_distance(estimate, reference, SAMPLE_RATE) for estimate in (repeated, other)]
    assert mel[0] < 1.5 * mel[1]


def test_ripple_ignores_smooth_filters_and_inaudible_tones() -> None:
    reference = noise(1, 1, 2 * SAMPLE_RATE)
    duller = torch.nn.functional.conv1d(reference, torch.tensor([[[0.2, 0.6, 0.2]]]), padding="same")
    silence = torch.zeros(1, 1, SAMPLE_RATE)
    tone = 1e-6 * torch.sin(2 * math.pi * 3000 / SAMPLE_RATE * torch.arange(SAMPLE_RATE))
    assert ripple_db(0.1 * reference, reference, SAMPLE_RATE) < 0.01
    assert ripple_db(duller, reference, SAMPLE_RATE) < 0.3
    assert ripple_db(silence + tone, silence, SAMPLE_RATE) < 0.1
    assert ripple_db(silence + 1000 * tone, silence, SAMPLE_RATE) > 1


def test_mel_distance_equals_the_loss_clip_by_clip() -> None:
    estimate, reference = noise(3, 1, 4000, seed=1), noise(3, 1, 4000, seed=2)
    scores = mel_distance(estimate, reference, SAMPLE_RATE)
    assert scores.shape == (3,)
    # The loss averages over everything, so the mean over clips of equal length is the loss of the batch.
    torch.testing.assert_close(scores.mean(), mel_loss(estimate, reference, SAMPLE_RATE))
    torch.testing.assert_close(scores[1:2], mel_distance(estimate[1:2], reference[1:2], SAMPLE_RATE))


def test_scores_improve_with_less_noise() -> None:
    reference = noise(1, 1, 6000)
    scores = [scored(reference + gain * noise(1, 1, 6000, seed=9), reference) for gain in (1, 0.1, 0.01)]
    for name, falling in (("mel_distance", True), ("stft_distance", True), ("ripple_db", True), ("si_sdr_db", False)):
        values = [float(score[name]) for score in scores]
        assert values == sorted(values, reverse=falling)


def test_identity_scores_best() -> None:
    audio = noise(2, 2, 6000)
    scores = scored(audio, audio)
    assert list(scores) == ["mel_distance", "stft_distance", "si_sdr_db", "ripple_db"]
    for name in ("mel_distance", "stft_distance", "ripple_db"):
        assert scores[name].tolist() == [0.0, 0.0]
    assert (scores["si_sdr_db"] > 60).all()


@pytest.mark.parametrize("samples", [1, 2, 300, 1025])
def test_short_clips_and_silence_have_finite_scores(samples: int) -> None:
    audio, silence = noise(1, 1, samples), torch.zeros(1, 1, samples)
    for estimate, reference in ((audio, audio), (silence, audio), (audio, silence), (silence, silence)):
        for score in scored(estimate, reference).values():
            assert score.shape == (1,)
            assert score.isfinite().all()


def test_silence_against_silence_scores_zero() -> None:
    silence = torch.zeros(1, 1, 3000)
    scores = scored(silence, silence)
    assert {name: float(score) for name, score in scores.items()} == {
        "mel_distance": 0.0,
        "stft_distance": 0.0,
        "si_sdr_db": 0.0,
        "ripple_db": 0.0,
    }


def test_a_clip_with_nan_scores_nan_and_the_others_do_not() -> None:
    estimate, reference = noise(2, 1, 3000), noise(2, 1, 3000, seed=1)
    estimate[0, 0, 7] = float("nan")
    for score in scored(estimate, reference).values():
        assert score.isnan().tolist() == [True, False]


def test_scores_record_no_gradient() -> None:
    estimate = noise(1, 1, 3000).requires_grad_()
    scores = scored(estimate, noise(1, 1, 3000, seed=1))
    assert not any(score.requires_grad for score in scores.values())


@pytest.mark.parametrize(
    ("estimate", "reference", "message"),
    [
        (torch.zeros(1, 1, 90), torch.zeros(1, 1, 100), "got 90 and 100 samples: remove the padding"),
        (torch.zeros(1, 2, 100), torch.zeros(1, 1, 100), r"expected equal shapes, got \[1, 2, 100\]"),
        (torch.zeros(1, 100), torch.zeros(1, 100), r"estimate: expected audio \[B, C, T\].* got \[1, 100\]"),
        (torch.zeros(1, 1, 0), torch.zeros(1, 1, 0), r"got \[1, 1, 0\]"),
        (torch.zeros(1, 1, 9), torch.full((1, 1, 9), math.inf), "reference of finite samples"),
    ],
)
def test_invalid_pairs_raise(estimate: Tensor, reference: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(estimate, reference)
    with pytest.raises(ValueError, match=message):
        scored(estimate, reference)


def test_integer_audio_raises() -> None:
    with pytest.raises(TypeError, match=r"estimate: expected floating-point audio, got torch.int16"):
        validate(torch.zeros(1, 1, 9, dtype=torch.int16), torch.zeros(1, 1, 9))
