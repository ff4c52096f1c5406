"""Evaluation: scores of reconstructed audio and of codes (`metrics`), and the page that shows a run (`report`)."""

from codec.evaluation.metrics import (
    bitrate_efficiency,
    codebook_usage,
    count_codes,
    evaluate,
    mel_distance,
    si_sdr_db,
    stft_distance,
    usage_of_counts,
    validate,
)

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
