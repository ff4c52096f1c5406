"""Full float32 products, whatever the caller has chosen."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["allow_tf32", "ieee_float32", "without_tf32"]


def allow_tf32(allowed: bool) -> None:
    """Sets whether matrix products, convolutions and LSTMs on CUDA may round their factors to TF32, with 11 bits.

    GPUs since Ampere gain from it. torch's default is TF32 in convolutions and LSTMs, and float32 in matrix products.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def without_tf32(device: torch.device) -> Iterator[None]:
    """Context in which float32 products on `device` are IEEE float32. The caller's autocast is left as it is.

    TF32 changes the codes of one to four frames in a hundred, so files are coded without it.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    if device.type != "cuda" or not any(before):
        yield
        return
    allow_tf32(False)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """As `without_tf32`, and without autocast."""
    with torch.autocast(device.type, enabled=False), without_tf32(device):
        yield
