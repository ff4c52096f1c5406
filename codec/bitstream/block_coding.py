"""How the codes of a block become bytes: what a coding can do, and the one that only packs bits."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.bit_packing import pack, unpack
from codec.bitstream.header import BitstreamHeader

__all__ = ["BlockCoding", "FixedCoding", "coding_for"]


class BlockCoding(Protocol):
    """Codes of a block into bytes and back; what it learnt from earlier blocks is forgotten at each sync point."""

    def reset(self) -> None:
        """The next block is a sync point."""

    def encode(self, codes: NDArray[np.int64]) -> bytes:
        """Shape: codes [K, F] -> bytes."""

    def decode(self, data: bytes, frames: int) -> NDArray[np.int64]:
        """Inverse of `encode`; raises `ValueError` for bytes that no codes were encoded to.

        Shape: bytes -> codes [K, F].
        """


class FixedCoding:
    """`bits_per_code` bits for every code, whatever came before."""

    def __init__(self, header: BitstreamHeader) -> None:
        self.header = header

    def reset(self) -> None:
        """Nothing is learnt."""

    def encode(self, codes: NDArray[np.int64]) -> bytes:
        """Shape: codes [K, F] -> bytes."""
        return pack(codes.T.ravel(), self.header.bits_per_code)

    def decode(self, data: bytes, frames: int) -> NDArray[np.int64]:
        """Shape: bytes -> codes [K, F]."""
        wanted = self.header.block_bytes(frames)
        if len(data) != wanted:
            raise ValueError(f"{frames} frames take {wanted} bytes, not {len(data)}")
        return unpack(data, self.header.bits_per_code, frames * self.header.codebooks).reshape(frames, -1).T


def coding_for(header: BitstreamHeader, coding: BlockCoding | None) -> BlockCoding:
    """`coding`, or what needs no more than the header; raises `ValueError` where there is no such coding."""
    if coding is not None:
        return coding
    if header.coding != "fixed":
        raise ValueError(f"to read or write codes in the coding {header.coding} its coder is needed, none was given")
    return FixedCoding(header)
