"""Evaluation: scores of reconstructed audio and of codes, by signal (`metrics`) and as heard (`perceptual`), a model's
rate-distortion curve (`rate_distortion`, beside that of `opus`), and the page that shows a run (`report`)."""

from codec.evaluation.metrics import (
    bitrate_efficiency,
    codebook_usage,
    count_codes,
    evaluate,
    mel_distance,
    ripple_db,
    si_sdr_db,
    stft_distance,
    usage_of_counts,
    validate,
)
from codec.evaluation.perceptual import pesq, stoi, visqol

__all__ = [
    "bitrate_efficiency",
    "codebook_usage",
    "count_codes",
    "evaluate",
    "mel_distance",
    "pesq",
    "ripple_db",
    "si_sdr_db",
    "stft_distance",
    "stoi",
    "usage_of_counts",
    "validate",
    "visqol",
]
