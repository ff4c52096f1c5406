"""Room impulse responses: synthetic ones, their reverberation time, and convolution with them."""

import math

import torch
from torch import Tensor

__all__ = ["convolve", "reverberation_time", "synthetic_response"]

_RANGE_DB = (-5.0, -25.0)  # of the decay that is fitted: T20 of ISO 3382-1


def synthetic_response(
    rt60_seconds: float, direct_to_reverberant_db: float, sample_rate: int, generator: torch.Generator
) -> Tensor:
    """A direct path and Gaussian noise that decays exponentially (Polack's model of a diffuse room, 1988).

    Args:
        rt60_seconds: Reverberation time: the noise decays by 60 dB within it, which is also the length.
        direct_to_reverberant_db: Energy of the direct path, an impulse of height 1, relative to that of the noise.

    Shape: -> [T], with the direct path at 0.
    """
    length = max(2, round(rt60_seconds * sample_rate))
    decay = 10 ** (-3 * torch.arange(length) / (rt60_seconds * sample_rate))
    response = torch.randn(length, generator=generator) * decay
    response[0] = 0
    response *= 10 ** (-direct_to_reverberant_db / 20) / response.norm()
    response[0] = 1
    return response


def reverberation_time(response: Tensor, sample_rate: int) -> float:
    """RT60 in s, by Schroeder's backward integration (New Method of Measuring Reverberation Time, 1965).

    A line is fitted to the energy that is left, in dB, between -5 and -25 dB, and extended to -60 dB.

    Shape: [T] -> number; NaN if the decay has fewer than two samples in that range.
    """
    left = response.double().square().flip(0).cumsum(0).flip(0)
    decay_db = 10 * torch.log10(left / left[0])
    times = ((decay_db <= _RANGE_DB[0]) & (decay_db >= _RANGE_DB[1])).nonzero()[:, 0].double()
    if len(times) < 2:
        return math.nan
    decay_db = decay_db[times.long()]
    times = times - times.mean()
    slope = (times * decay_db).sum() / times.square().sum()  # dB per sample
    return float(-60 / slope / sample_rate)


def convolve(audio: Tensor, response: Tensor) -> Tensor:
    """The first T samples of the convolution, by FFT.

    Shape: [C, T], [t] -> [C, T].
    """
    length = audio.shape[-1]
    response = response[:length]
    size = 1 << (length + len(response) - 2).bit_length()  # a power of two, at least the length of the convolution
    spectrum = torch.fft.rfft(audio, size) * torch.fft.rfft(response.to(audio.dtype), size)
    return torch.fft.irfft(spectrum, size)[:, :length]
