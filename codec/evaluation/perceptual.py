"""Metrics based on models of human hearing.

Conventions: audio is [B, C, T], arguments are (estimate, reference), sample rates are in Hz, and every score is [B].
Each metric scores the mean of the channels and resamples as it needs.

A score is NaN where the metric is undefined: the estimate or the reference is silent (no sample of the mean above
2^-24), the estimate is not finite, or the clip is too short. Leave NaN out of means and report how often it occurred.

Metrics:
    stoi: Intelligibility of speech, at most 1, higher is better.
    pesq: Quality of speech as a mean opinion score, about 1 to 4.64, higher is better.
    visqol: Quality of any audio as a mean opinion score, 1 to 4.73, higher is better.
    visqol_speech: The same for speech, 1 to about 4.2.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from codec.audio import resample
from codec.evaluation.signal_metrics import validate

__all__ = ["pesq", "score_each_clip", "stoi", "visqol", "visqol_speech"]

_SILENCE = 2**-24
_STOI_SECONDS = 0.39  # STOI needs 30 frames of 256 samples at 10 kHz, with a hop of 128: just over 0.39 s
_PESQ_RATE = 16_000
# The pesq package writes past the end of a table at more than 50 utterances, and the process crashes. An utterance and
# the gap after it last at least 0.2 s each, so 10 s hold at most 25 of them.
_PESQ_SECONDS = 10
_VISQOL_RATE = 48_000
_VISQOL_SPEECH_RATE = 16_000
_VISQOL_SECONDS = 0.96  # one and a half patches of 30 frames; a frame lasts 80 ms, the hop is 20 ms


def stoi(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Short-time objective intelligibility (Taal et al. 2011), computed by pystoi; 1 for identical audio.

    Also NaN where fewer than 30 frames (0.4 s) of the reference lie within 40 dB of its loudest frame.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        TypeError, ValueError: See `validate`.
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

    return score_each_clip(score, estimate, reference)


def pesq(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Wideband perceptual evaluation of speech quality (ITU-T P.862.2) at 16 kHz; 4.64 for identical audio.

    A clip longer than 10 s is split into equal pieces of at most 10 s, and their scores are averaged. Also NaN below
    0.25 s and where the method finds no utterance. P.862 defines no meaning for scores of audio other than speech.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        TypeError, ValueError: See `validate`.
    """

    def score(estimate: Tensor, reference: Tensor) -> float:
        estimate, reference = (resample(audio, sample_rate, _PESQ_RATE) for audio in (estimate, reference))
        count = math.ceil(len(reference) / (_PESQ_SECONDS * _PESQ_RATE))
        pieces = zip(estimate.chunk(count), reference.chunk(count), strict=True)
        return float(torch.tensor([_pesq_of_piece(e, r) for e, r in pieces]).nanmean())

    return score_each_clip(score, estimate, reference)


def _pesq_of_piece(estimate: Tensor, reference: Tensor) -> float:
    """Shape: estimate [T], reference [T], at 16 kHz."""
    from pesq import BufferTooShortError, NoUtterancesError
    from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality  # takes seconds to import

    if not (_is_scorable(estimate) and _is_scorable(reference)):
        return math.nan
    try:
        return float(perceptual_evaluation_speech_quality(estimate, reference, _PESQ_RATE, "wb"))
    except (BufferTooShortError, NoUtterancesError):
        return math.nan


def visqol(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """ViSQOL v3 in audio mode (Chinen et al. 2020) at 48 kHz; 4.73 for identical audio.

    It takes about as long as the audio lasts. Also NaN for clips below 0.96 s.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        TypeError, ValueError: See `validate`.
    """
    return _visqol(estimate, reference, sample_rate, "audio", _VISQOL_RATE)


def visqol_speech(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """ViSQOL v3 in speech mode (Chinen et al. 2020) at 16 kHz; 4.20 for identical speech.

    The mapping to scores is that of Google's default, not the polynomial that gives 5 for identical speech. Pauses of
    the reference are left out. Also NaN for clips below 0.96 s.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        TypeError, ValueError: See `validate`.
    """
    return _visqol(estimate, reference, sample_rate, "speech", _VISQOL_SPEECH_RATE)


def _visqol(estimate: Tensor, reference: Tensor, sample_rate: int, mode: str, rate: int) -> Tensor:
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode=mode)

    def score(estimate: Tensor, reference: Tensor) -> float:
        e, r = (resample(audio, sample_rate, rate).numpy() for audio in (estimate, reference))
        return float(api.measure_from_arrays(r, e, rate).moslqo) if len(r) >= _VISQOL_SECONDS * rate else math.nan

    return score_each_clip(score, estimate, reference)


def score_each_clip(score: Callable[[Tensor, Tensor], float], estimate: Tensor, reference: Tensor) -> Tensor:
    """Applies `score` to the mean of the channels of each clip; NaN where that is silent or not finite.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].
    """
    validate(estimate, reference)
    pairs = zip(*(audio.detach().double().mean(1).cpu() for audio in (estimate, reference)), strict=True)
    return torch.tensor([score(e, r) if _is_scorable(e) and _is_scorable(r) else math.nan for e, r in pairs])


def _is_scorable(audio: Tensor) -> bool:
    """Whether `audio` [T] is finite and not silent."""
    return _SILENCE < float(audio.abs().max()) < math.inf
