"""Block coders: the codes of one block to bytes and back. The one here packs bits; `entropy/` has the others."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.header import BitstreamHeader

__all__ = ["BlockCoder", "FixedCoder", "block_coder_for", "pack", "unpack"]


class BlockCoder(Protocol):
    """Encodes and decodes the codes of consecutive blocks. What it learns from one block serves the next."""

    def reset(self) -> None:
        """Forgets all blocks so far. It is called before every random access point."""

    def encode(self, codes: NDArray[np.int64]) -> bytes:
        """Shape: codes [K, F] -> bytes."""

    def decode(self, data: bytes, frames: int) -> NDArray[np.int64]:
        """Inverse of `encode`.

        Shape: bytes -> codes [K, F].

        Raises:
            ValueError: `encode` cannot have returned these bytes.
        """


class FixedCoder:
    """The coding `fixed`: every code takes `bits_per_code` bits."""

    def __init__(self, header: BitstreamHeader) -> None:
        self.header = header

    def reset(self) -> None:
        """Does nothing, because this coder learns nothing."""

    def encode(self, codes: NDArray[np.int64]) -> bytes:
        """Shape: codes [K, F] -> bytes."""
        return pack(codes.T.ravel(), self.header.bits_per_code)

    def decode(self, data: bytes, frames: int) -> NDArray[np.int64]:
        """Shape: bytes -> codes [K, F]."""
        expected = self.header.block_bytes(frames)
        if len(data) != expected:
            raise ValueError(f"expected {expected} bytes for {frames} frames, got {len(data)}")
        return unpack(data, self.header.bits_per_code, frames * self.header.num_codebooks).reshape(frames, -1).T


def block_coder_for(header: BitstreamHeader, coder: BlockCoder | None) -> BlockCoder:
    """Returns `coder`, or a `FixedCoder` if it is None.

    Raises:
        ValueError: `coder` is None, but the coding of the header needs one.
    """
    if coder is not None:
        return coder
    if header.coding != "fixed":
        raise ValueError(f"the coding {header.coding} needs a block coder, got None")
    return FixedCoder(header)


def pack(codes: NDArray[np.integer[Any]], bits: int) -> bytes:
    """Writes each code with `bits` bits, lowest bit first. Zero bits fill the last byte.

    Shape: codes [N] -> ceil(N * bits / 8) bytes.

    Raises:
        ValueError: A code does not fit into `bits` bits, or `bits` is above 16.
    """
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < 1 << bits <= 1 << 16:
        raise ValueError(f"expected codes of {bits} bits, at most 16, got {codes.min()} to {codes.max()}")
    code_bytes = codes.astype("<u2")[:, None].view(np.uint8)
    code_bits = np.unpackbits(code_bytes, axis=1, count=bits, bitorder="little")
    return np.packbits(code_bits.ravel(), bitorder="little").tobytes()


def unpack(data: bytes, bits: int, count: int) -> NDArray[np.int64]:
    """Inverse of `pack`.

    Shape: ceil(N * bits / 8) bytes -> codes [N].
    """
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    code_bytes = np.packbits(flat.reshape(count, bits), axis=1, bitorder="little")
    return np.pad(code_bytes, ((0, 0), (0, 2 - code_bytes.shape[1]))).view("<u2")[:, 0].astype(np.int64)
