"""Loudness by Recommendation ITU-R BS.1770-4, Algorithms to measure audio programme loudness."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["loudness_lufs"]

_BLOCK_SECONDS = 0.4
_HOP = 0.25  # of a block
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_DB = -0.691  # so that a sine of 997 Hz at 0 dBFS in one channel has -3.01 LUFS


def loudness_lufs(audio: Tensor, sample_rate: int) -> float:
    """Integrated loudness of mono or stereo audio. Blocks below -70 LUFS, or 10 LU below the mean, do not count.

    Audio that is shorter than a block of 400 ms is one block.

    Args:
        sample_rate: In Hz, at least 4000. The filters have the frequency response of the standard's, which are given
            for 48 kHz.

    Shape: [C, T] -> number in LUFS; -inf if no block counts.
    """
    from scipy.signal import sosfilt  # this import takes half as long as that of torch

    if not audio.shape[-1]:
        return -math.inf
    weighted = sosfilt(_k_weighting(sample_rate), audio.double().numpy(), axis=-1)
    powers = _block_powers(weighted, sample_rate)
    for gate in (_ABSOLUTE_GATE_LUFS, None):
        if gate is None:
            gate = _lufs(float(powers.mean())) + _RELATIVE_GATE_LU
        powers = powers[powers > 10 ** ((gate - _OFFSET_DB) / 10)]
        if not len(powers):
            return -math.inf
    return _lufs(float(powers.mean()))


def _block_powers(weighted: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Power of each block, summed over the channels."""
    size = min(round(_BLOCK_SECONDS * sample_rate), weighted.shape[-1])
    hop = max(1, round(_BLOCK_SECONDS * _HOP * sample_rate))
    energies = np.concatenate([[0.0], np.cumsum(np.square(weighted).sum(0))])
    starts = np.arange(0, weighted.shape[-1] - size + 1, hop)
    return (energies[starts + size] - energies[starts]) / size


def _lufs(power: float) -> float:
    return _OFFSET_DB + 10 * math.log10(power) if power > 0 else -math.inf


@lru_cache(maxsize=8)
def _k_weighting(sample_rate: int) -> NDArray[np.float64]:
    """The high shelf and the high-pass of BS.1770 as second-order sections.

    Their analog prototypes are those of Brecht De Man (Evaluation of Implementations of the EBU R128 Loudness
    Measurement, AES 2018): at 48 kHz the bilinear transform gives the standard's coefficients.
    """
    tangent, q = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    scale = 1 + tangent / q + tangent**2
    shelf = [
        (high + band * tangent / q + tangent**2) / scale,
        2 * (tangent**2 - high) / scale,
        (high - band * tangent / q + tangent**2) / scale,
        1.0,
        2 * (tangent**2 - 1) / scale,
        (1 - tangent / q + tangent**2) / scale,
    ]
    tangent, q = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    scale = 1 + tangent / q + tangent**2
    high_pass = [1.0, -2.0, 1.0, 1.0, 2 * (tangent**2 - 1) / scale, (1 - tangent / q + tangent**2) / scale]
    return np.array([shelf, high_pass])
