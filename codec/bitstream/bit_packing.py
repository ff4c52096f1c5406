"""Codes of a few bits, side by side in bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "unpack"]


def pack(codes: NDArray[np.integer[Any]], bits: int) -> bytes:
    """Codes of 1 to 16 bits side by side, lowest bit first, zero bits to a whole byte.

    Shape: codes [N] -> ceil(N * bits / 8) bytes.

    Raises:
        ValueError: A code does not fit.
    """
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < 1 << bits <= 1 << 16:
        raise ValueError(f"expected codes of {bits} bits, at most 16, got {codes.min()} to {codes.max()}")
    table = codes.astype("<u2")[:, None].view(np.uint8)
    return np.packbits(np.unpackbits(table, axis=1, count=bits, bitorder="little").ravel(), bitorder="little").tobytes()


def unpack(data: bytes, bits: int, count: int) -> NDArray[np.int64]:
    """Inverse of `pack`.

    Shape: ceil(N * bits / 8) bytes -> codes [N].
    """
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    table = np.packbits(flat.reshape(count, bits), axis=1, bitorder="little")
    return np.pad(table, ((0, 0), (0, 2 - table.shape[1]))).view("<u2")[:, 0].astype(np.int64)
