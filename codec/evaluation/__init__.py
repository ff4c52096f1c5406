"""Evaluation: the registry of metrics, baselines, rate-distortion curves, and the report page of a training run."""

from codec.evaluation.codebook_usage import bitrate_efficiency, codebook_usage, codes_used, count_codes
from codec.evaluation.groups import select_speech_groups
from codec.evaluation.metrics import (
    METRICS,
    Metric,
    check_packages,
    describe,
    score_audio,
    score_codes,
    select_metrics,
)
from codec.evaluation.perceptual import pesq, stoi, visqol, visqol_speech
from codec.evaluation.predicted_mos import distillmos, dnsmos
from codec.evaluation.signal_metrics import mel_distance, ripple_db, si_sdr_db, stft_distance, validate

__all__ = [
    "METRICS",
    "Metric",
    "bitrate_efficiency",
    "check_packages",
    "codebook_usage",
    "codes_used",
    "count_codes",
    "describe",
    "distillmos",
    "dnsmos",
    "mel_distance",
    "pesq",
    "ripple_db",
    "score_audio",
    "score_codes",
    "select_metrics",
    "select_speech_groups",
    "si_sdr_db",
    "stft_distance",
    "stoi",
    "validate",
    "visqol",
    "visqol_speech",
]
