"""Scores of reconstructed audio and of the codes it came from.

Conventions: audio is [B, C, T], arguments are (estimate, reference), sample rates are in Hz, and every score of audio
is [B], one number a clip, so that clips can be grouped afterwards. Nothing here is meant to be trained on.

Metrics:
    si_sdr_db: scale-invariant signal-to-distortion ratio in dB, higher is better.
    mel_distance: audiocraft's multi-scale mel loss, lower is better.
    stft_distance: the multi-scale STFT distance of the Descript audio codec's evaluation, lower is better.
    codebook_usage, bitrate_efficiency: how much of their nominal bits the codes carry.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.quantizer import CodebookUsage
from losses import spectral
from losses.waveform import si_sdr

__all__ = [
    "bitrate_efficiency",
    "codebook_usage",
    "count_codes",
    "evaluate",
    "mel_distance",
    "si_sdr_db",
    "stft_distance",
    "usage_of_counts",
    "validate",
]

_LONGEST_MEL_WINDOW = 2**10
_STFT_WINDOWS = (2048, 512)


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


def _at_least(audio: Tensor, samples: int) -> Tensor:
    return F.pad(audio, (0, max(0, samples - audio.shape[-1])))
