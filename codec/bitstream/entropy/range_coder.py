"""Range coding with the constriction package, in integer arithmetic only.

constriction takes probabilities as floats and turns the cumulative ones, c_i, into integers by

    floor(c_i * (2^24 - S) / sum) + i,

with S symbols. `symbol_counts` returns integers that sum to 2^24 - S. Then the quotient is exactly 1, cumulative counts
are exact in float64 in any order of summation, and the result is c_i + i. So a file does not depend on the machine, its
rounding mode or the compiler. Each symbol has the frequency count + 1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_WEIGHT", "PRECISION", "RangeDecoder", "RangeEncoder", "symbol_counts"]

PRECISION = 24  # the frequencies of all symbols sum to 2 ** PRECISION
_FLOOR_BITS = 8  # 2 ** -_FLOOR_BITS of the frequencies are divided evenly
MAX_WEIGHT = (1 << (63 - PRECISION)) - 1  # so that a weight times the sum of frequencies fits into 63 bits


def symbol_counts(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Converts integer weights of symbols to the counts that the range coder takes.

    A symbol gets at least 1/256 of an even share, which costs 0.006 bits a code. So no symbol is impossible, and no
    code takes less than -log2(1 - 1/512) = 1/355 bit (with an alphabet of two). `MAX_CODES_PER_BYTE` in
    `codec.bitstream.layout` depends on this bound.

    Shape: weights [..., S], 0 to `MAX_WEIGHT`, not all 0 -> counts [..., S], each row with the sum 2^24 - S.
    """
    size = weights.shape[-1]
    free = (1 << PRECISION) - size
    floor = (free >> _FLOOR_BITS) // size
    spread = free - floor * size
    counts: NDArray[np.int64] = floor + weights * spread // weights.sum(-1, keepdims=True)
    # Rounding down leaves a remainder below S. The likeliest symbol gets it, where it matters least.
    likeliest = weights.argmax(-1)[..., None]
    remainder = free - counts.sum(-1, keepdims=True)
    np.put_along_axis(counts, likeliest, np.take_along_axis(counts, likeliest, -1) + remainder, -1)
    return counts


class RangeEncoder:
    """Encodes symbols to bytes: the 32-bit words of constriction, big-endian.

    Raises:
        ValueError: The package constriction is missing.
    """

    def __init__(self) -> None:
        self._queue, self._model = _constriction()
        self._encoder = self._queue.RangeEncoder()

    def put(self, codes: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Appends codes.

        Shape: codes [N], counts [N, S] from `symbol_counts`.
        """
        self._encoder.encode(codes.astype(np.int32), self._model, counts.astype(np.float64))

    def finish(self) -> bytes:
        """Returns all bytes."""
        words: bytes = self._encoder.get_compressed().astype(">u4").tobytes()
        return words


class RangeDecoder:
    """Decodes the bytes of a `RangeEncoder`.

    Raises:
        ValueError: The length is not a multiple of 4 bytes, or the package constriction is missing.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise ValueError(f"expected a multiple of 4 bytes of range coded data, got {len(data)}")
        queue, self._model = _constriction()
        self._decoder = queue.RangeDecoder(np.frombuffer(data, ">u4").astype(np.uint32))

    def take(self, counts: NDArray[np.int64]) -> int:
        """Returns the next code.

        Shape: counts [S].

        Raises:
            ValueError: An encoder with these counts cannot have written these bytes.
        """
        try:
            return int(self._decoder.decode(self._model, counts.astype(np.float64)[None])[0])
        except AssertionError as error:  # raised by constriction for bytes outside the interval of every symbol
            raise ValueError("its bytes are not those of a range coder") from error

    def finish(self) -> None:
        """Raises `ValueError` if codes are left."""
        if not self._decoder.maybe_exhausted():
            raise ValueError("it has more bytes than its codes take")


def _constriction() -> tuple[Any, Any]:
    try:
        from constriction import stream
    except ImportError as error:
        raise ValueError(
            "the codings adaptive and transformer need the package constriction: pip install constriction"
        ) from error
    return stream.queue, stream.model.Categorical(perfect=False)
