"""Perceptual metrics against values stored from their packages, and their behaviour at the edges.

The stored values are scores of `speech(rate)` in white noise of the given standard deviation, from NumPy's generator
with seed 0. They were computed by pystoi 0.4.1, pesq 0.0.4 and visqol-python 3.8.0 on float64 arrays, and by distillmos
0.9.1 and speechmos 0.0.1.1 on float32 arrays.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly
from torch import Tensor

from codec.evaluation import distillmos, dnsmos, pesq, stoi, visqol, visqol_speech
from codec.evaluation.predicted_mos import _distillmos_model

CLIP = Path(__file__).parents[3] / "data/clips/held_out/speech/new_world_fr_4.ogg"
SHORT = 1.2  # seconds; repeated eight times, it fills one window of DNSMOS
METRICS = [stoi, pesq, visqol, visqol_speech, distillmos, dnsmos]
Metric = Callable[[Tensor, Tensor, int], Tensor]


@functools.cache
def speech(sample_rate: int, seconds: float = 3.0) -> Tensor:
    """The start of a clip of this repository, mixed to mono and resampled by SciPy. Shape: -> [1, 1, T]."""
    audio, rate = soundfile.read(CLIP, always_2d=True)
    divisor = math.gcd(rate, sample_rate)
    resampled = resample_poly(audio.mean(1), sample_rate // divisor, rate // divisor)
    return torch.from_numpy(resampled[: round(seconds * sample_rate)])[None, None]


def noisy(reference: Tensor, deviation: float) -> Tensor:
    noise = np.random.default_rng(0).standard_normal(tuple(reference.shape))
    return reference + deviation * torch.from_numpy(noise)


@pytest.mark.parametrize(
    ("metric", "sample_rate", "deviation", "stored"),
    [
        (stoi, 24_000, 0.1, 0.69399),
        (stoi, 24_000, 0.01, 0.93551),
        (stoi, 24_000, 0.001, 0.99836),
        (pesq, 16_000, 0.1, 1.01791),
        (pesq, 16_000, 0.01, 1.17347),
        (pesq, 16_000, 0.001, 3.45028),
        (visqol, 48_000, 0.1, 1.41635),
        (visqol, 48_000, 0.01, 2.26265),
        (visqol, 48_000, 0.001, 3.36729),
        (visqol_speech, 16_000, 0.01, 1.42513),
        (visqol_speech, 16_000, 0.001, 4.08810),
        (visqol_speech, 16_000, 0.0, 4.20100),
        (distillmos, 16_000, 0.1, 1.71425),
        (distillmos, 16_000, 0.01, 2.69461),
        (distillmos, 16_000, 0.0, 3.53507),
        (dnsmos, 16_000, 0.1, 1.09067),
        (dnsmos, 16_000, 0.01, 2.10481),
        (dnsmos, 16_000, 0.0, 3.04600),
    ],
)
def test_stored_values(metric: Metric, sample_rate: int, deviation: float, stored: float) -> None:
    reference = speech(sample_rate)
    assert float(metric(noisy(reference, deviation), reference, sample_rate)) == pytest.approx(stored, abs=1e-3)


@pytest.mark.parametrize(
    # PESQ: the raw score 4.5 mapped by P.862.2. ViSQOL: stored.
    ("metric", "best"),
    [
        (stoi, 1.0),
        (pesq, 0.999 + 4 / (1 + math.exp(3.8224 - 1.3669 * 4.5))),
        (visqol, 4.7321),
    ],
)
def test_identity_scores_best_at_any_level(metric: Metric, best: float) -> None:
    reference = speech(24_000, 1.5)
    batch = torch.cat([reference, reference / 10])
    torch.testing.assert_close(metric(batch, reference.expand(2, 1, -1), 24_000), torch.full((2,), best))


@pytest.mark.parametrize("metric", METRICS)
def test_sample_rates_are_converted(metric: Metric) -> None:
    reference = speech(16_000, 2.3)  # doubled twice, it fills one window of DNSMOS
    estimate = noisy(reference, 0.003)
    at_48k = (torch.from_numpy(resample_poly(audio.numpy(), 3, 1, axis=-1)) for audio in (estimate, reference))
    # The network of DistillMOS notices the filters near 8 kHz.
    tolerance = 0.4 if metric is distillmos else 0.03
    torch.testing.assert_close(metric(estimate, reference, 16_000), metric(*at_48k, 48_000), rtol=0, atol=tolerance)


@pytest.mark.parametrize("metric", METRICS)
def test_the_mean_of_the_channels_is_scored(metric: Metric) -> None:
    reference = speech(24_000, SHORT)
    estimate = noisy(reference, 0.01)
    stereo = torch.cat([1.5 * estimate, 0.5 * estimate], 1)
    both = metric(stereo, reference.expand(1, 2, -1), 24_000)
    torch.testing.assert_close(both, metric(estimate, reference, 24_000))


@pytest.mark.parametrize("metric", METRICS)
def test_silent_clips_are_undefined(metric: Metric) -> None:
    audio = speech(24_000, 1.5)
    silence = torch.zeros_like(audio)
    estimates, references = torch.cat([silence, audio, silence]), torch.cat([audio, silence, silence])
    assert metric(estimates, references, 24_000).isnan().all()
    opposed = torch.cat([audio, -audio], 1)
    assert metric(opposed, opposed, 24_000).isnan().all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_clip_that_is_not_finite_is_undefined_and_the_others_are_not(metric: Metric) -> None:
    reference = speech(24_000, SHORT).expand(3, 1, -1)
    estimate = noisy(reference, 0.01)
    estimate[0, 0, 7] = math.nan
    estimate[1, 0, 7] = math.inf
    assert metric(estimate, reference, 24_000).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("metric", "sample_rate", "enough", "too_few"),
    [
        (pesq, 16_000, 4000, 3999),
        (visqol, 48_000, 46_080, 46_079),
        (visqol_speech, 16_000, 15_360, 15_359),
        (stoi, 10_000, 4225, 3900),
        (stoi, 10_000, 4225, 1),
        (distillmos, 16_000, 16_000, 15_999),
        (dnsmos, 16_000, 16_000, 15_999),
    ],
)
def test_too_short_clips_are_undefined(metric: Metric, sample_rate: int, enough: int, too_few: int) -> None:
    reference = speech(sample_rate)[..., sample_rate // 2 :]
    estimate = noisy(reference, 0.01)
    assert metric(estimate[..., :enough], reference[..., :enough], sample_rate).isfinite().all()
    assert metric(estimate[..., :too_few], reference[..., :too_few], sample_rate).isnan().all()


def test_a_word_in_silence_is_too_short_for_stoi() -> None:
    reference = speech(24_000).clone()
    reference[..., 5000:] = 0
    assert stoi(noisy(reference, 0.01), reference, 24_000).isnan().all()


def test_pesq_without_an_utterance_is_undefined() -> None:
    burst = noisy(torch.zeros(1, 1, 48_000), 0.1)
    burst[..., :16_000], burst[..., 16_800:] = 0, 0
    assert pesq(burst, burst, 16_000).isnan().all()


def test_pesq_of_a_long_clip_is_the_mean_over_its_pieces() -> None:
    reference = speech(16_000).repeat(1, 1, 7)[..., :320_000]
    estimate = torch.cat([noisy(reference[..., :160_000], 0.01), noisy(reference[..., 160_000:], 0.001)], -1)
    halves = [pesq(e, r, 16_000) for e, r in zip(estimate.chunk(2, -1), reference.chunk(2, -1), strict=True)]
    torch.testing.assert_close(pesq(estimate, reference, 16_000), torch.stack(halves).mean(0))
    estimate[..., 160_000:] = 0  # a silent piece is left out of the mean
    torch.testing.assert_close(pesq(estimate, reference, 16_000), halves[0])


def test_pesq_handles_more_utterances_than_its_package() -> None:
    """The package crashes at more than 50 utterances in one call; this clip has 60."""
    bursts = noisy(torch.zeros(1, 1, 60 * 16_000), 0.1) * (torch.arange(60 * 16_000) % 16_000 < 7000)
    assert pesq(noisy(bursts, 0.001), bursts, 16_000).isfinite().all()


@pytest.mark.parametrize("metric", METRICS)
def test_unequal_lengths_raise(metric: Metric) -> None:
    with pytest.raises(ValueError, match="expected an estimate as long as its reference, got 90 and 100 samples"):
        metric(torch.zeros(1, 1, 90), torch.zeros(1, 1, 100), 24_000)


@pytest.mark.parametrize(("metric", "window", "period"), [(distillmos, 122_880, 20_000), (dnsmos, 144_160, 16_000)])
def test_predictors_score_windows_of_the_estimate_alone(metric: Metric, window: int, period: int) -> None:
    """A clip of two windows has the mean of their scores, whatever the reference."""
    hop = min(period, 16_000)
    long = noisy(speech(16_000).repeat(1, 1, 4), 0.003)[..., : window + hop]
    parts = [metric(part, torch.ones_like(part), 16_000) for part in (long[..., :window], long[..., hop:])]
    torch.testing.assert_close(metric(long, torch.ones_like(long), 16_000), torch.stack(parts).mean(0))


def test_dnsmos_repeats_short_clips_and_clips_at_full_scale() -> None:
    audio = noisy(speech(16_000, SHORT), 0.003)
    repeated = audio.repeat(1, 1, 8)  # doubled until it has 9.01 s
    torch.testing.assert_close(dnsmos(audio, audio, 16_000), dnsmos(repeated, repeated, 16_000))
    loud = 30 * audio
    torch.testing.assert_close(dnsmos(loud, loud, 16_000), dnsmos(loud.clamp(-1, 1), loud, 16_000))


def test_the_model_of_distillmos_leaves_the_random_numbers_of_training_alone() -> None:
    _distillmos_model.cache_clear()
    before = torch.get_rng_state()
    _distillmos_model()
    assert torch.equal(torch.get_rng_state(), before)
