"""Range coding in Python integers: the same bytes on every machine.

The state is that of the range coder of the constriction package (Bamler 2022): a lower end and a width of 64 bits, and
words of 32 bits. Given the same frequencies, both write the same bytes.

A symbol is an interval of 2^24, its start and its size. Its probability is size / 2^24.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_WEIGHT", "PRECISION", "RangeDecoder", "RangeEncoder", "boundaries", "floor_size"]

PRECISION = 24  # the sizes of all symbols sum to 2 ** PRECISION
MAX_WEIGHT = 1 << 22  # so that 2^16 weights times 2^24 fit into 63 bits
_FLOOR_BITS = 8  # 2 ** -_FLOOR_BITS of 2 ** PRECISION is divided evenly
_WORD_BITS = 32
_WORD = (1 << _WORD_BITS) - 1
_STATE = (1 << 64) - 1


def floor_size(symbols: int) -> int:
    """Size that each of `symbols` symbols gets whatever its probability: 1/256 of an even share, at least 1.

    So no symbol is impossible, at a cost of 0.006 bits a code, and no code takes less than -log2(1 - 1/512) = 1/355 bit
    (with an alphabet of two). `MAX_CODES_PER_BYTE` in `codec.bitstream.layout` depends on this bound.
    """
    return (1 << PRECISION - _FLOOR_BITS) // symbols


def boundaries(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the intervals of symbols start and end, from integer weights.

    Shape: weights [..., S], 0 to `MAX_WEIGHT`, not all 0, S at most 2^16 -> [..., S + 1], from 0 to 2^24.
    """
    symbols = weights.shape[-1]
    floor = floor_size(symbols)
    cumulative = np.pad(weights.cumsum(-1), [(0, 0)] * (weights.ndim - 1) + [(1, 0)])
    spread = (1 << PRECISION) - floor * symbols
    scaled: NDArray[np.int64] = cumulative * spread // cumulative[..., -1:] + floor * np.arange(symbols + 1)
    return scaled


class RangeEncoder:
    """Encodes intervals of 2^24 to bytes: words of 32 bits, big-endian."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._low = 0
        self._width = _STATE

    def put(self, start: int, size: int) -> None:
        """Appends a symbol.

        Args:
            start, size: Its interval, with 0 <= start < start + size <= 2^24.
        """
        unit = self._width >> PRECISION
        self._low += unit * start
        self._width = unit * size
        if self._low > _STATE:
            self._low &= _STATE
            self._carry()
        if self._width <= _WORD:
            self._words.append(self._low >> _WORD_BITS)
            self._low = self._low << _WORD_BITS & _STATE
            self._width <<= _WORD_BITS

    def finish(self) -> bytes:
        """Returns all bytes."""
        if self._width != _STATE:
            point = self._low + _WORD
            if point > _STATE:
                self._carry()
            words = [point >> _WORD_BITS & _WORD]
            if (self._low + self._width) >> _WORD_BITS == point >> _WORD_BITS:
                words.append(0)  # any continuation of the first word alone could leave the interval
            self._words += words
        return b"".join(word.to_bytes(4, "big") for word in self._words)

    def _carry(self) -> None:
        i = len(self._words) - 1
        while self._words[i] == _WORD:
            self._words[i] = 0
            i -= 1
        self._words[i] += 1


class RangeDecoder:
    """Decodes the bytes of a `RangeEncoder`: `peek` finds the symbol, `take` removes it.

    Raises:
        ValueError: The length is not a multiple of 4 bytes.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise ValueError(f"expected a multiple of 4 bytes of range coded data, got {len(data)}")
        self._words = np.frombuffer(data, ">u4").tolist()
        self._used = 0
        self._width = _STATE
        self._offset = self._next_word() << _WORD_BITS | self._next_word()  # from the lower end

    def peek(self) -> int:
        """A point of the next symbol's interval, from 0 to 2^24 - 1.

        Raises:
            ValueError: An encoder cannot have written these bytes.
        """
        point = self._offset // (self._width >> PRECISION)
        if point >> PRECISION:
            raise ValueError("its bytes are not those of a range coder")
        return point

    def take(self, start: int, size: int) -> None:
        """Removes the symbol with this interval, which contains the point of `peek`."""
        unit = self._width >> PRECISION
        self._offset -= unit * start
        self._width = unit * size
        if self._width <= _WORD:
            self._offset = self._offset << _WORD_BITS | self._next_word()
            self._width <<= _WORD_BITS

    def finish(self) -> None:
        """Checks that all bytes were needed, and that none is missing.

        Raises:
            ValueError: An encoder of these symbols writes more or fewer bytes.
        """
        if self._used < len(self._words):
            raise ValueError("it has more bytes than its codes take")
        if self._width != _STATE and self._used > len(self._words) + 1:
            raise ValueError("it has fewer bytes than its codes take")

    def _next_word(self) -> int:
        # The encoder omits words at the end that may have any value.
        word = self._words[self._used] if self._used < len(self._words) else 0
        self._used += 1
        return word
