"""Noise for decoders: numbers that depend on the frame and the channel alone, so that streams equal whole signals.

The generator is counter-based, as in Salmon et al. 2011 (Parallel random numbers: as easy as 1, 2, 3): a hash of the
position. It computes with integers, so its numbers are equal on all devices.
"""

import math

import torch
from torch import Tensor

__all__ = ["frame_noise"]

_BITS = 32
_MASK = (1 << _BITS) - 1
_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B))  # shifts and factors of the hash "lowbias32" (Wellons 2018)


def frame_noise(start: Tensor, frames: int, channels: int) -> Tensor:
    """Uniform numbers of mean 0 and variance 1, independent of each other.

    Args:
        start: Position of the first frame of each signal; positions count modulo 2^32 / `channels`.
        frames, channels: Size of the result.

    Shape: start [B] int64 -> [B, channels, frames] float32.
    """
    frame = start[:, None, None] + torch.arange(frames, device=start.device)
    x = (frame * channels + torch.arange(channels, device=start.device)[:, None]) & _MASK
    for shift, factor in _ROUNDS:
        x = ((x ^ (x >> shift)) * factor) & _MASK
    x = x ^ (x >> 16)
    return (x.float() * (2.0 / (1 << _BITS)) - 1) * math.sqrt(3)
