"""Mel filters of the spectral losses."""

import warnings
from typing import Any

import torchaudio
from torch import Tensor

__all__ = ["mel_filters"]


def mel_filters(
    sample_rate: int, window_samples: int, mels: int, f_min_hz: float, f_max_hz: float, **form: Any
) -> Tensor:
    """Triangular filters of torchaudio. A filter between two bins is 0 everywhere, without a warning.

    Args:
        sample_rate: In Hz.
        window_samples: Of the transform whose bins are weighted.
        mels: Number of filters.
        f_min_hz, f_max_hz: Band that they cover.
        form: `norm` and `mel_scale` of `torchaudio.functional.melscale_fbanks`.

    Shape: -> [window_samples / 2 + 1, mels].
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.functional.melscale_fbanks(
            window_samples // 2 + 1, f_min_hz, f_max_hz, mels, sample_rate, **form
        )
