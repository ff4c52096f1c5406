"""Scores of reconstructed audio and of the codes it came from.

Conventions: audio is [B, C, T], arguments are (estimate, reference), sample rates are in Hz, and every score of audio
is [B], one number a clip, so that clips can be grouped afterwards. Nothing here is meant to be trained on.

Metrics:
    si_sdr_db: scale-invariant signal-to-distortion ratio in dB, higher is better.
    mel_distance: audiocraft's multi-scale mel loss, lower is better.
    stft_distance: the multi-scale STFT distance of the Descript audio codec's evaluation, lower is better.
    ripple_db: tones where the reference has noise, which no other score hears; lower is better.
    codebook_usage, bitrate_efficiency: how much of their nominal bits the codes carry.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.quantization.residual import CodebookUsage
from losses import spectral
from losses.waveform import si_sdr

__all__ = [
    "bitrate_efficiency",
    "codebook_usage",
    "count_codes",
    "evaluate",
    "mel_distance",
    "ripple_db",
    "si_sdr_db",
    "stft_distance",
    "usage_of_counts",
    "validate",
]

_LONGEST_MEL_WINDOW = 2**10
_STFT_WINDOWS = (2048, 512)
# Of the ripple. Its bins lie closer than the tones of any frame rate; below the band voices have tones of their own,
# and above it, as a share of the highest frequency there is, filters end. Nobody hears what is below the noise.
_BIN_HZ, _RIPPLE_FROM_HZ, _RIPPLE_TO, _MOVING_MEAN_HZ, _NOISE_DBFS = 24000 / 4096, 2500.0, 11 / 12, 380.0, -90.0


def validate(estimate: Tensor, reference: Tensor) -> None:
    """Checks that an estimate can be scored against a reference.

    A non-finite *estimate* passes: the scores of a model that diverged are NaN, which is for the caller to judge.

    Shape: estimate [B, C, T], reference [B, C, T].

    Raises:
        TypeError: when one of them does not hold floating-point numbers.
        ValueError: when the shapes are not equal and [B, C, T] with at least one of each, or the reference holds
            NaN or infinity.
    """
    for name, audio in (("estimate", estimate), ("reference", reference)):
        if not audio.is_floating_point():
            raise TypeError(f"{name}: floating-point audio is wanted, got {audio.dtype}")
        if audio.ndim != 3 or 0 in audio.shape:
            raise ValueError(f"{name}: audio [B, C, T], none of them 0, is wanted, got {list(audio.shape)}")
    if estimate.shape[:2] == reference.shape[:2] and estimate.shape != reference.shape:
        raise ValueError(
            f"an estimate as long as its reference is wanted, got {estimate.shape[-1]} and {reference.shape[-1]} "
            "samples: cut off what the codec padded"
        )
    if estimate.shape != reference.shape:
        raise ValueError(f"equal shapes are wanted, got {list(estimate.shape)} and {list(reference.shape)}")
    if not reference.isfinite().all():
        raise ValueError("a reference of finite samples is wanted, got NaN or infinity")


def evaluate(estimate: Tensor, reference: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """All scores of audio by their names.

    Shape: estimate [B, C, T], reference [B, C, T] -> each score [B].
    """
    return {
        "mel_distance": mel_distance(estimate, reference, sample_rate),
        "stft_distance": stft_distance(estimate, reference),
        "si_sdr_db": si_sdr_db(estimate, reference),
        "ripple_db": ripple_db(estimate, reference, sample_rate),
    }


@torch.no_grad()
def si_sdr_db(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), the mean left in; see losses.waveform.si_sdr.

    An identical estimate scores what the epsilons leave, about 110 dB for a second of loud audio; a silent estimate
    scores 0 dB, so untrained models can seem better silent than noisy.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B], in dB.
    """
    validate(estimate, reference)
    return si_sdr(estimate, reference)


@torch.no_grad()
def mel_distance(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Multi-scale mel distance (audiocraft: 64 filters above 64 Hz, windows 2^6 .. 2^10); 0 for an identical estimate.

    Clips below 1024 samples are continued with silence.

    Args:
        estimate: what the codec made.
        reference: what it was given.
        sample_rate: of both, in Hz.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].
    """
    validate(estimate, reference)
    estimate, reference = (_at_least(audio, _LONGEST_MEL_WINDOW) for audio in (estimate, reference))
    pairs = zip(estimate.split(1), reference.split(1), strict=True)
    return torch.stack([spectral.mel_distance(e, r, sample_rate) for e, r in pairs])


@torch.no_grad()
def stft_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    """L1 of magnitudes plus L1 of their log10 powers, windows 2048 and 512 (Kumar et al. 2023, section 4.2).

    Hann windows, hop a quarter, powers held at 1e-5 or more, the sum over both windows: the form of the "STFT distance"
    that the Descript audio codec reports. Clips below 2048 samples are continued with silence.

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
    """How unevenly the treble of the estimate follows that of its reference; 0 for an identical estimate.

    A decoder that repeats one waveform in every frame writes noise as tones at multiples of its frame rate. Their
    energy is right in every band of a mel filter, so that scores of bands miss them, and a listener hears a buzz. This
    is the standard deviation over frequency of the ratio of both long-term spectra, in dB, less its moving mean over
    380 Hz; from 2.5 kHz (or a third of the highest frequency) to 11/12 of the highest, in bins of about 6 Hz. Channels
    are taken together, and both signals with white noise at -90 dBFS.

    Two noises that have nothing in common score 1.0 in 3 s and 1.9 in 1 s; noise, and a frame of noise repeated 75
    times a second, 23. The project's own measure: docs/starter.md, "What the mel distance does not hear".

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


def count_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """How often each code of each book occurs. Counts of several batches add up; then see `usage_of_counts`.

    Shape: codes [B, K, F] of integers -> [K, codebook_size] int64.

    Raises:
        TypeError: when the codes are not integers.
        ValueError: when they are not [B, K, F], or lie outside 0 .. codebook_size - 1.
    """
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise TypeError(f"integer codes are wanted, got {codes.dtype}")
    if codes.ndim != 3 or 0 in codes.shape:
        raise ValueError(f"codes [B, K, F], none of them 0, are wanted, got {list(codes.shape)}")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codebook_size:
        raise ValueError(f"codes in 0 .. {codebook_size - 1} are wanted, got {low} .. {high}")
    books = codes.shape[1]
    # One histogram for all books: book k counts in its own range of codebook_size numbers.
    offsets = codebook_size * torch.arange(books, device=codes.device)
    flat = (codes.long() + offsets[:, None]).flatten()
    return torch.bincount(flat, minlength=books * codebook_size).view(books, codebook_size)


def usage_of_counts(counts: Tensor) -> CodebookUsage:
    """Perplexity, share of codes that never occur, and entropy in bits of each book.

    Few codes bound all three: N of them reach a perplexity of N at most.

    Shape: counts [K, codebook_size] -> each [K] float64.

    Raises:
        ValueError: when a book has no code at all.
    """
    total = counts.sum(1, keepdim=True)
    if (total == 0).any():
        raise ValueError("at least one code of every book is wanted, got a book without any")
    entropy_nats = torch.special.entr(counts.double() / total).sum(1)
    return CodebookUsage(
        perplexity=entropy_nats.exp(),
        dead_share=(counts == 0).double().mean(1),
        bits=entropy_nats / math.log(2),
    )


def codebook_usage(codes: Tensor, codebook_size: int) -> CodebookUsage:
    """`usage_of_counts` of the codes of one batch; here dead means that a code does not occur in it.

    Shape: codes [B, K, F] of integers -> each [K] float64.
    """
    return usage_of_counts(count_codes(codes, codebook_size))


def bitrate_efficiency(usage: CodebookUsage, codebook_size: int) -> float:
    """Sum of the books' entropies over the sum of the bits they cost (Kumar et al. 2023), in [0, 1].

    Raises:
        ValueError: when a book has fewer than two codes, and so costs no bits.
    """
    if codebook_size < 2:
        raise ValueError(f"books of at least 2 codes are wanted, got {codebook_size}")
    return float(usage.bits.sum() / (len(usage.bits) * math.log2(codebook_size)))


def _magnitude(audio: Tensor, window_samples: int) -> Tensor:
    """Shape: audio [B, C, T] -> [B, C, bins, F]."""
    padded = _at_least(audio.float(), max(_STFT_WINDOWS))
    window = torch.hann_window(window_samples, device=audio.device)
    spectrum = torch.stft(padded.flatten(0, 1), window_samples, window_samples // 4, window=window, return_complex=True)
    return spectrum.abs().unflatten(0, audio.shape[:2])


def _long_term_level_db(audio: Tensor, window_samples: int) -> Tensor:
    """Shape: audio [B, C, T] -> [B, bins]."""
    padded = _at_least(audio.float(), window_samples)
    window = torch.hann_window(window_samples, device=audio.device)
    hop = window_samples // 4
    spectrum = torch.stft(padded.flatten(0, 1), window_samples, hop, window=window, center=False, return_complex=True)
    power = spectrum.abs().square().mean(-1).unflatten(0, audio.shape[:2]).mean(1)
    return 10 * (power + 10 ** (_NOISE_DBFS / 10) * window.square().sum()).log10()


def _at_least(audio: Tensor, samples: int) -> Tensor:
    return F.pad(audio, (0, max(0, samples - audio.shape[-1])))
