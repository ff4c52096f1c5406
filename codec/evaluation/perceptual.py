"""Scores of reconstructed audio by models of human listening.

Conventions as in `metrics`: audio is [B, C, T], arguments are (estimate, reference), sample rates are in Hz, every
score is [B]. All three judge one channel, the mean of all of them, and change the sample rate as they need.

A score is NaN where it is not defined: when the estimate or the reference is silent (no sample of the mean above
2^-24), the estimate is not finite, or the clip is too short for the method. NaN is neither good nor bad: leave it out
of means, and say how often it occurred.

Metrics:
    stoi: intelligibility of speech, at most 1, higher is better.
    pesq: quality of speech as a mean opinion score, about 1 to 4.64, higher is better.
    visqol: quality of any audio as a mean opinion score, 1 to 4.73, higher is better.
"""

import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from codec.evaluation.metrics import validate
from data import resample

__all__ = ["check_packages", "pesq", "stoi", "visqol"]

_SILENCE = 2**-24
_STOI_SECONDS = 0.39  # 30 frames of 256 samples every 128 at 10 kHz take more
_PESQ_RATE = 16_000
# The pesq package writes past the end of a table when there are more than 50 utterances, and the process dies. An
# utterance lasts 0.2 s or more, and so does the gap to the next, so 10 s hold half as many.
_PESQ_SECONDS = 10
_VISQOL_RATE = 48_000
_VISQOL_SAMPLES = 46_080  # one and a half patches of 30 frames, each 80 ms long and 20 ms after the one before


def check_packages() -> None:
    """Looks for what this module's scores are made with, which is not installed with the rest.

    Raises:
        ValueError: Names what is missing, and how to get it.
    """
    missing = [name for name in ("torchmetrics", "pesq", "pystoi", "visqol") if find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} not installed: bash scripts/setup.sh evaluation (needs a C compiler)")


def stoi(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Short-time objective intelligibility (Taal et al. 2011), through pystoi; 1 for an identical estimate.

    NaN also where less than 30 frames (0.4 s) of the reference lie within 40 dB of its loudest one.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        ValueError: as `metrics.validate`, among others for unequal lengths.
    """
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility  # takes seconds to import

    def score(estimate: Tensor, reference: Tensor) -> float:
        if len(reference) < _STOI_SECONDS * sample_rate:
            return math.nan
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            try:
                return float(short_time_objective_intelligibility(estimate, reference, sample_rate))
            except RuntimeWarning:
                return math.nan

    return _clip_by_clip(score, estimate, reference)


def pesq(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Wideband perceptual evaluation of speech quality (ITU-T P.862.2) at 16 kHz; 4.64 for an identical estimate.

    Clips of more than 10 s are scored in equal pieces of at most that length, and their scores averaged. NaN also for
    less than 0.25 s, and where the method finds no utterance. Of audio that is not speech it is a number without a
    meaning in P.862.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        ValueError: as `metrics.validate`, among others for unequal lengths.
    """

    def score(estimate: Tensor, reference: Tensor) -> float:
        estimate, reference = (resample(audio, sample_rate, _PESQ_RATE) for audio in (estimate, reference))
        count = math.ceil(len(reference) / (_PESQ_SECONDS * _PESQ_RATE))
        pieces = zip(estimate.chunk(count), reference.chunk(count), strict=True)
        return float(torch.tensor([_pesq_of_piece(e, r) for e, r in pieces]).nanmean())

    return _clip_by_clip(score, estimate, reference)


def _pesq_of_piece(estimate: Tensor, reference: Tensor) -> float:
    """Shape: estimate [T], reference [T], at 16 kHz."""
    from pesq import BufferTooShortError, NoUtterancesError
    from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality  # takes seconds to import

    if not (_heard(estimate) and _heard(reference)):
        return math.nan
    try:
        return float(perceptual_evaluation_speech_quality(estimate, reference, _PESQ_RATE, "wb"))
    except (BufferTooShortError, NoUtterancesError):
        return math.nan


def visqol(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """ViSQOL v3 in audio mode (Chinen et al. 2020) at 48 kHz; 4.73 for an identical estimate.

    It takes about as long as the audio. NaN also for clips of less than 0.96 s.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        ValueError: as `metrics.validate`, among others for unequal lengths.
    """
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="audio")

    def score(estimate: Tensor, reference: Tensor) -> float:
        e, r = (resample(audio, sample_rate, _VISQOL_RATE).numpy() for audio in (estimate, reference))
        return float(api.measure_from_arrays(r, e, _VISQOL_RATE).moslqo) if len(r) >= _VISQOL_SAMPLES else math.nan

    return _clip_by_clip(score, estimate, reference)


def _clip_by_clip(score: Callable[[Tensor, Tensor], float], estimate: Tensor, reference: Tensor) -> Tensor:
    """Applies `score` to the mean of the channels of each clip, NaN where that is silent or not finite.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].
    """
    validate(estimate, reference)
    pairs = zip(*(audio.detach().double().mean(1).cpu() for audio in (estimate, reference)), strict=True)
    return torch.tensor([score(e, r) if _heard(e) and _heard(r) else math.nan for e, r in pairs])


def _heard(audio: Tensor) -> bool:
    """Whether `audio` [T] is finite and not silent."""
    return _SILENCE < float(audio.abs().max()) < math.inf
