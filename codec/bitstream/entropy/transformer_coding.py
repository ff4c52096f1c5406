"""The coding `transformer`: a trained network expects each code, in whole numbers."""

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy.frequencies import counts_of
from codec.bitstream.entropy.integer_network import Context, IntegerNetwork
from codec.bitstream.entropy.range_coder import RangeDecoder, RangeEncoder

__all__ = ["TransformerCoding"]


class TransformerCoding:
    """A `BlockCoding`. Encoding evaluates many frames at once, decoding one book at a time: both get equal numbers.

    Args:
        network: Of the codec's codes.
        codebooks: Codes per frame, at most the network's.
    """

    def __init__(self, network: IntegerNetwork, codebooks: int) -> None:
        self.network = network
        self.codebooks = codebooks
        self._context = Context(network, codebooks)

    def reset(self) -> None:
        """Forgets all codes."""
        self._context.reset()

    def encode(self, codes: NDArray[np.int64]) -> bytes:
        """Shape: codes [K, F] -> bytes."""
        coder = RangeEncoder()
        for frames, weights in self._context.expect_all(codes):
            coder.put(codes[:, frames].T.ravel(), counts_of(weights).reshape(-1, weights.shape[-1]))
        return coder.finish()

    def decode(self, data: bytes, frames: int) -> NDArray[np.int64]:
        """Inverse of `encode`.

        Shape: bytes -> codes [K, F].

        Raises:
            ValueError: No codes were encoded to these bytes.
        """
        coder = RangeDecoder(data)
        codes = np.empty((frames, self.codebooks), np.int64)
        for frame in codes:
            hidden = self._context.next_frame()
            below = np.zeros_like(hidden)
            for book in range(self.codebooks):
                frame[book] = coder.take(counts_of(self.network.weights(hidden, below, book)[0]))
                below += self.network.row("present", book, frame[book : book + 1])
            self._context.see(frame)
        coder.finish()
        return codes.T
