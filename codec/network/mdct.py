"""The transform of a network at the frame rate before it is trained: an MDCT with a sine window, and its inverse.

Higher frequencies, where speech is weaker, are amplified.
"""

import math

import torch
from torch import Tensor

__all__ = ["inverse_mdct_spectra", "mdct"]

_LEVEL = 10.0  # so that coefficients of speech have variances near 1
_CORNER = 0.04  # frequency where the emphasis doubles, relative to half the sampling rate: 480 Hz at 24 kHz
_LEAST_WINDOW = 0.05  # a frame is not divided by less


def mdct(count: int, hop: int) -> Tensor:
    """The lowest `count` frequencies of windows of two hops. Shape: -> [count, 2 hop], float64."""
    return _emphasis(count, hop) * _waves(count, hop)


def inverse_mdct_spectra(count: int, hop: int, window: Tensor) -> Tensor:
    """Spectra from which an inverse STFT makes the signal whose coefficients `mdct` gives, below the highest frequency.

    Args:
        window: By which the inverse STFT multiplies a frame; it divides by the sum of the squared windows. [n], n even
            and at least 2 hop. Where it is near 0 within a hop of its centre, the inverse is not exact.

    Shape: -> [count, n / 2 + 1], complex128: the spectrum for a coefficient of 1 and others of 0.
    """
    window = window.double()
    start = len(window) // 2 - hop
    inside = slice(start, start + 2 * hop)
    padded = torch.cat([window.square(), window.new_zeros(-len(window) % hop)])
    sums = padded.view(-1, hop).sum(0)  # of the squared windows, by position from the start of a window
    factors = sums[torch.arange(start, start + 2 * hop) % hop] / window[inside].clamp(min=_LEAST_WINDOW)
    frames = window.new_zeros(count, len(window))
    frames[:, inside] = _waves(count, hop) / _emphasis(count, hop) * factors
    return torch.fft.rfft(frames)


def _waves(count: int, hop: int) -> Tensor:
    """Orthonormal, with the overlap of neighbouring frames. Shape: -> [count, 2 hop]."""
    t, k = torch.arange(2 * hop, dtype=torch.float64), torch.arange(count, dtype=torch.float64)[:, None]
    window = (math.pi * (t + 0.5) / (2 * hop)).sin()
    return math.sqrt(2 / hop) * window * (math.pi / hop * (t + 0.5 + hop / 2) * (k + 0.5)).cos()


def _emphasis(count: int, hop: int) -> Tensor:
    """Shape: -> [count, 1]."""
    return _LEVEL * (1 + (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / hop / _CORNER)
