"""Vectors of a batch that replace dead codes, chosen on the device and equal in all processes."""

import math

import torch
from torch import Tensor

from codec.quantization.processes import all_reduce, rank, world_size

__all__ = ["replacement_vectors"]

_GOLDEN = 0.6180339887498949  # multiples of this share of a whole are spread evenly over it
_HASH_FACTOR = 2_654_435_761  # Knuth's multiplicative hash


def replacement_vectors(residuals: Tensor, number: Tensor, update: Tensor) -> Tensor:
    """Vectors of the batches of all processes, distinct for each codebook.

    They are equally spaced from a start that depends on codebook and update.

    Args:
        residuals: The vectors of this process.
        number: Number of each code among the dead ones of its codebook, from 1. After N of them vectors repeat.
        update: Number of the update.

    Shape: residuals [K, N, D], number [K, size] int64, update [] int64 -> [K, size, D].
    """
    k, n, _ = residuals.shape
    total = n * world_size()
    stride = next(s for s in range(round(total * _GOLDEN) or 1, 0, -1) if math.gcd(s, total) == 1)
    codebook = torch.arange(k, device=residuals.device)[:, None]
    hashes = torch.arange(-stride, k * _HASH_FACTOR - stride, _HASH_FACTOR, device=residuals.device)[:, None]
    start = torch.add(hashes, update, alpha=_HASH_FACTOR)
    chosen = torch.add(start, number, alpha=stride) % total  # counted in the order of the ranks
    if world_size() == 1:
        return residuals[codebook, chosen]
    vectors = residuals[codebook, chosen % n]
    is_own = chosen // n == rank()
    return all_reduce(torch.where(is_own[..., None], vectors, 0.0))
