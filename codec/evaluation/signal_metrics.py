"""Metrics computed from the signals alone, without a model of hearing.

Conventions: audio is [B, C, T], arguments are (estimate, reference), sample rates are in Hz. Every score is [B], one
number per clip, so that clips can be grouped afterwards. Scores carry no gradient.

Metrics:
    si_sdr_db: Scale-invariant signal-to-distortion ratio in dB, higher is better.
    mel_distance: Multi-scale mel distance of audiocraft, lower is better.
    stft_distance: Multi-scale STFT distance of the Descript audio codec, lower is better.
    ripple_db: Tones in the estimate where the reference has noise, in dB, lower is better.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from losses import spectral
from losses.waveform import si_sdr

__all__ = ["mel_distance", "ripple_db", "si_sdr_db", "stft_distance", "validate"]

_LONGEST_MEL_WINDOW = 2**10
_STFT_WINDOWS = (2048, 512)
# Ripple. The bins are narrower than the spacing of the tones at any usual frame rate.
_BIN_HZ = 24000 / 4096
# Speech and music have tones of their own below this frequency.
_RIPPLE_FROM_HZ = 2500.0
# Resampling filters attenuate the highest frequencies; this is a share of the Nyquist frequency.
_RIPPLE_TO = 11 / 12
_MOVING_MEAN_HZ = 380.0
_NOISE_DBFS = -90.0  # tones below this level are inaudible


def validate(estimate: Tensor, reference: Tensor) -> None:
    """Checks that an estimate can be scored against a reference.

    An estimate that is not finite passes: a diverged model gets NaN scores.

    Shape: estimate [B, C, T], reference [B, C, T].

    Raises:
        TypeError: One of them does not hold floating-point numbers.
        ValueError: The shapes differ or are not [B, C, T] with at least one of each, or the reference holds NaN or
            infinity.
    """
    for name, audio in (("estimate", estimate), ("reference", reference)):
        if not audio.is_floating_point():
            raise TypeError(f"{name}: expected floating-point audio, got {audio.dtype}")
        if audio.ndim != 3 or 0 in audio.shape:
            raise ValueError(f"{name}: expected audio [B, C, T], none of them 0, got {list(audio.shape)}")
    if estimate.shape[:2] == reference.shape[:2] and estimate.shape != reference.shape:
        raise ValueError(
            f"expected an estimate as long as its reference, got {estimate.shape[-1]} and {reference.shape[-1]} "
            "samples: remove the padding that the codec added"
        )
    if estimate.shape != reference.shape:
        raise ValueError(f"expected equal shapes, got {list(estimate.shape)} and {list(reference.shape)}")
    if not reference.isfinite().all():
        raise ValueError("expected a reference of finite samples, got NaN or infinity")


@torch.no_grad()
def si_sdr_db(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), without removal of the mean.

    The epsilons of `losses.waveform.si_sdr` bound it: an identical estimate of one second of loud audio scores about
    110 dB. A silent estimate scores 0 dB, so an untrained model can score higher when it is silent than when it is
    noisy.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B], in dB.
    """
    validate(estimate, reference)
    return si_sdr(estimate, reference)


@torch.no_grad()
def mel_distance(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Multi-scale mel distance of audiocraft (64 mel bands from 64 Hz, windows 2^6 .. 2^10); 0 for identical audio.

    Clips shorter than 1024 samples are padded with zeros.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].
    """
    validate(estimate, reference)
    estimate, reference = (_zero_padded(audio, _LONGEST_MEL_WINDOW) for audio in (estimate, reference))
    pairs = zip(estimate.split(1), reference.split(1), strict=True)
    return torch.stack([spectral.mel_distance(e, r, sample_rate) for e, r in pairs])


@torch.no_grad()
def stft_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale STFT distance that the Descript audio codec reports (Kumar et al. 2023, section 4.2).

    It is the L1 distance of magnitudes plus the L1 distance of their log10 powers, summed over windows of 2048 and
    512 samples. The windows are Hann, the hop is a quarter window, and powers are clamped at 1e-5. Clips shorter than
    2048 samples are padded with zeros.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].
    """
    validate(estimate, reference)
    distance = estimate.new_zeros(len(estimate), dtype=torch.float32)
    for window_samples in _STFT_WINDOWS:
        e, r = (_magnitude(audio, window_samples) for audio in (estimate, reference))
        e_log, r_log = (magnitude.square().clamp(min=1e-5).log10() for magnitude in (e, r))
        distance += (e - r).abs().flatten(1).mean(1) + (e_log - r_log).abs().flatten(1).mean(1)
    return distance


@torch.no_grad()
def ripple_db(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Unevenness over frequency of the estimate's treble relative to the reference; 0 for identical audio.

    A decoder that repeats one waveform in every frame turns noise into tones at multiples of its frame rate, which
    sound like a buzz. Mel and STFT distances miss them, because the energy of every band is right. The metric is the
    standard deviation over frequency of the ratio of the long-term spectra, in dB, after subtraction of its moving
    mean over 380 Hz. It covers 2.5 kHz (or a third of the Nyquist frequency) to 11/12 of the Nyquist frequency in bins
    of about 6 Hz. The power of all channels is averaged, and white noise at -90 dBFS is added to both signals.

    Two independent noises score 1.0 in 3 s and 1.9 in 1 s. Noise against a frame of noise that repeats 75 times a
    second scores 23. The metric is this project's own.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B], in dB.
    """
    validate(estimate, reference)
    window_samples = 2 ** round(math.log2(sample_rate / _BIN_HZ))
    bin_hz = sample_rate / window_samples
    low, high = min(_RIPPLE_FROM_HZ, sample_rate / 6) / bin_hz, _RIPPLE_TO * sample_rate / 2 / bin_hz
    half = round(_MOVING_MEAN_HZ / 2 / bin_hz)
    levels = [_long_term_level_db(audio, window_samples) for audio in (estimate, reference)]
    ratio = (levels[0] - levels[1])[:, None]
    mean = F.avg_pool1d(ratio, 2 * half + 1, stride=1, padding=half, count_include_pad=False)
    return (ratio - mean)[:, 0, math.ceil(low) : math.floor(high) + 1].std(1, correction=0)


def _magnitude(audio: Tensor, window_samples: int) -> Tensor:
    """Shape: audio [B, C, T] -> [B, C, bins, F]."""
    padded = _zero_padded(audio.float(), max(_STFT_WINDOWS))
    window = torch.hann_window(window_samples, device=audio.device)
    spectrum = torch.stft(padded.flatten(0, 1), window_samples, window_samples // 4, window=window, return_complex=True)
    return spectrum.abs().unflatten(0, audio.shape[:2])


def _long_term_level_db(audio: Tensor, window_samples: int) -> Tensor:
    """Shape: audio [B, C, T] -> [B, bins]."""
    padded = _zero_padded(audio.float(), window_samples)
    window = torch.hann_window(window_samples, device=audio.device)
    hop = window_samples // 4
    spectrum = torch.stft(padded.flatten(0, 1), window_samples, hop, window=window, center=False, return_complex=True)
    power = spectrum.abs().square().mean(-1).unflatten(0, audio.shape[:2]).mean(1)
    return 10 * (power + 10 ** (_NOISE_DBFS / 10) * window.square().sum()).log10()


def _zero_padded(audio: Tensor, samples: int) -> Tensor:
    """At least `samples` long."""
    return F.pad(audio, (0, max(0, samples - audio.shape[-1])))
