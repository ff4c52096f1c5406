"""Range coding with the constriction package, fed so that no number in it is ever rounded.

constriction takes probabilities as floats and turns the cumulated ones, c_i, into integers by

    floor(c_i * (2^24 - S) / sum) + i,

with S symbols. Counts are whole numbers with a sum of 2^24 - S: the quotient is exactly 1, the cumulated counts are
exact in float64 in any order of summation, and what is left is c_i + i, integer arithmetic written in floats. So a file
does not depend on the machine, its rounding mode or the compiler; each symbol has the frequency count + 1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RangeDecoder", "RangeEncoder"]


class RangeEncoder:
    """Collects codes; constriction's words are written with the highest byte first.

    Raises:
        ValueError: The package constriction is missing.
    """

    def __init__(self) -> None:
        self._queue, self._model = _constriction()
        self._encoder = self._queue.RangeEncoder()

    def put(self, codes: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Shape: codes [N], counts [N, S] as `counts_of` gives them."""
        self._encoder.encode(codes.astype(np.int32), self._model, counts.astype(np.float64))

    def finish(self) -> bytes:
        """All that was put."""
        words: bytes = self._encoder.get_compressed().astype(">u4").tobytes()
        return words


class RangeDecoder:
    """Gives out what a `RangeEncoder` collected.

    Raises:
        ValueError: The bytes are no whole words, or the package constriction is missing.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise ValueError(f"range coded bytes come in words of 4, got {len(data)}")
        queue, self._model = _constriction()
        self._decoder = queue.RangeDecoder(np.frombuffer(data, ">u4").astype(np.uint32))

    def take(self, counts: NDArray[np.int64]) -> int:
        """The next code.

        Shape: counts [S].

        Raises:
            ValueError: Nothing was encoded to these bytes with these counts.
        """
        try:
            return int(self._decoder.decode(self._model, counts.astype(np.float64)[None])[0])
        except AssertionError as error:  # constriction's own for bytes outside every symbol's interval
            raise ValueError("its bytes are not what a range coder makes") from error

    def finish(self) -> None:
        """Raises `ValueError` if more was encoded than was taken."""
        if not self._decoder.maybe_exhausted():
            raise ValueError("there are more bytes than codes")


def _constriction() -> tuple[Any, Any]:
    try:
        from constriction import stream
    except ImportError as error:
        raise ValueError(
            "the codings adaptive and transformer need the package constriction: pip install constriction"
        ) from error
    return stream.queue, stream.model.Categorical(perfect=False)
