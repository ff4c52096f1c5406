"""The coding `transformer`: a trained network predicts each code, in integer arithmetic."""

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy.integer_network import Context, IntegerNetwork
from codec.bitstream.entropy.range_coder import RangeDecoder, RangeEncoder, boundaries

__all__ = ["TransformerCoder"]


class TransformerCoder:
    """A `BlockCoder`. Encoding evaluates many frames at once, decoding one code at a time, with equal results.

    Args:
        network: Trained on the codes of the codec.
        num_codebooks: Codes per frame, at most those of the network.
    """

    def __init__(self, network: IntegerNetwork, num_codebooks: int) -> None:
        self.network = network
        self.num_codebooks = num_codebooks
        self._context = Context(network, num_codebooks)

    def reset(self) -> None:
        """Forgets all codes."""
        self._context.reset()

    def encode(self, codes: NDArray[np.int64]) -> bytes:
        """Shape: codes [K, F] -> bytes."""
        coder = RangeEncoder()
        for frames, weights in self._context.predict_all(codes):
            ends = boundaries(weights).reshape(-1, weights.shape[-1] + 1)
            rows, symbols = np.arange(len(ends)), codes[:, frames].T.ravel()
            starts, sizes = ends[rows, symbols], ends[rows, symbols + 1] - ends[rows, symbols]
            for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
                coder.put(start, size)
        return coder.finish()

    def decode(self, data: bytes, frames: int) -> NDArray[np.int64]:
        """Inverse of `encode`.

        Shape: bytes -> codes [K, F].

        Raises:
            ValueError: `encode` cannot have returned these bytes.
        """
        coder = RangeDecoder(data)
        codes = np.empty((frames, self.num_codebooks), np.int64)
        for frame in codes:
            hidden = self._context.next_hidden()
            earlier = np.zeros_like(hidden)
            for k in range(self.num_codebooks):
                ends = boundaries(self.network.weights(hidden, earlier, k)[0])
                code = int(np.searchsorted(ends, coder.peek(), "right")) - 1
                coder.take(int(ends[code]), int(ends[code + 1] - ends[code]))
                frame[k] = code
                earlier += self.network.row("present", k, frame[k : k + 1])
            self._context.append(frame)
        coder.finish()
        return codes.T
