"""The arithmetic coder of the encodec package (Défossez et al. 2022, section 3.3), bit for bit.

Coder and decoder follow one interval [low, high]. It is doubled, a bit of the file each time, until it is at least
2^24 wide; the symbol's share of it is kept; bits that both ends have in common at their front are settled.

The package scales table entries to the interval in floating point. Entries have 25 bits at most, and an interval that
is doubled only while narrower than 2^24 has no more either: such products are exact in a double, and whole numbers give
the same here. Not so the tables. They are made from float32 probabilities, and both sides must have these to the bit.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["FEWEST_BITS", "RangeDecoder", "RangeEncoder", "cumulative_tables"]

_BITS = 24
_WIDTH = 1 << _BITS
_LEAST = 2  # what of 2^24 the least probable symbol gets
_GRAIN = 1e-8  # probabilities are rounded down to multiples of it
# Bits that stay unsettled. The package's coder gives up at 62, which chance does not bring about; a file that is made
# to leave them all unsettled would have its decoder reckon with numbers as long as itself.
_UNSETTLED_LIMIT = 1 << 10
# A symbol costs -log2 of its share, at most 1 - 2 (size - 1) / 2^24: 1.8e-4 bits for 1024 codes. This is below that.
FEWEST_BITS = 2.0**-13


def cumulative_tables(probabilities: Tensor) -> NDArray[np.int64]:
    """For each of K distributions, where in 2^24 the share of each symbol ends.

    Shape: probabilities [size, K] float32 -> [K, size], rising by 2 or more.

    Raises:
        ValueError: A probability is no finite number.
    """
    if not bool(probabilities.isfinite().all()):
        raise ValueError("the language model gave a probability that is not finite")
    rounded = (probabilities / _GRAIN).floor() * _GRAIN
    mixed_in = _LEAST * len(probabilities) / _WIDTH
    shares = (((1 - mixed_in) * _WIDTH) * rounded).floor().long() + _LEAST
    tables: NDArray[np.int64] = shares.cumsum(0).t().contiguous().cpu().numpy()
    return tables


class _Interval:
    """The part of the number line that the symbols so far have left, without its settled bits."""

    def __init__(self) -> None:
        self.low = 0
        self.high = 0
        self.unsettled = 0  # bits of `low` and `high`

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    def double(self) -> None:
        self.low, self.high, self.unsettled = 2 * self.low, 2 * self.high + 1, self.unsettled + 1

    def keep(self, symbol: int, table: NDArray[np.int64]) -> None:
        """Narrows the interval to the share of a symbol.

        Probabilities that are rounded up, as some near 1 are, can make a table that ends beyond 2^24, and then the last
        shares may lie outside. The package's coder stops there too.

        Raises:
            ValueError: The share needs a bit more than there are.
        """
        begin, end = int(table[symbol - 1]) if symbol else 0, int(table[symbol])
        width = self.width
        self.high = self.low + ((end - 1) * width >> _BITS)
        self.low -= -begin * width >> _BITS  # rounded up
        if self.high >> self.unsettled:
            raise ValueError("the language model's probabilities add up to more than 1, by which a code has no bits")

    def settle(self) -> int | None:
        """Takes off the first bit, if both ends have the same."""
        if self.unsettled == 0:
            return None
        top = self.unsettled - 1
        bit = self.low >> top
        if self.high >> top != bit:
            return None
        self.low, self.high, self.unsettled = self.low - (bit << top), self.high - (bit << top), top
        return bit


class RangeEncoder:
    """Symbols to bytes."""

    def __init__(self) -> None:
        self._interval = _Interval()
        self._data = bytearray()
        self._byte, self._filled = 0, 0

    def push(self, symbol: int, table: NDArray[np.int64]) -> None:
        """Appends a symbol.

        Args:
            table: A row of `cumulative_tables`.

        Raises:
            ValueError: It has no room for this symbol, see `_Interval.keep`.
        """
        interval = self._interval
        while interval.width < _WIDTH:
            interval.double()
        interval.keep(symbol, table)
        while (bit := interval.settle()) is not None:
            self._write(bit)

    def finish(self) -> bytes:
        """All bytes; the encoder ends here."""
        for place in reversed(range(self._interval.unsettled)):
            self._write(self._interval.low >> place & 1)
        if self._filled:
            self._data.append(self._byte)
        return bytes(self._data)

    def _write(self, bit: int) -> None:
        self._byte |= bit << self._filled
        self._filled += 1
        if self._filled == 8:
            self._data.append(self._byte)
            self._byte, self._filled = 0, 0


class RangeDecoder:
    """Bytes to symbols.

    It takes exactly the bytes that the encoder made, so that others can follow.

    Args:
        next_byte: Gives the next byte of the file, or raises what is to be raised at its end.
    """

    def __init__(self, next_byte: Callable[[], int]) -> None:
        self._next_byte = next_byte
        self._interval = _Interval()
        self._value = 0  # the bits of the file from the first unsettled one on
        self._byte, self._left = 0, 0

    def pull(self, table: NDArray[np.int64]) -> int:
        """The next symbol.

        Args:
            table: As the encoder had it, to the last digit.

        Raises:
            ValueError: No encoder writes such bits with these tables.
        """
        interval = self._interval
        while interval.width < _WIDTH:
            interval.double()
            self._value = 2 * self._value + self._read()
        offset = self._value - interval.low
        # Of the shares whose last place, floor((end - 1) * width / 2^24), is not before `offset`, the first.
        end = 1 - (-(offset << _BITS) // interval.width)
        symbol = int(np.searchsorted(table, end))
        if symbol < len(table):
            interval.keep(symbol, table)
        if symbol == len(table) or not interval.low <= self._value <= interval.high:
            raise ValueError("its bits stand for no code")
        while (bit := interval.settle()) is not None:
            self._value -= bit << interval.unsettled
        if interval.unsettled > _UNSETTLED_LIMIT:
            raise ValueError("its bits are such as no encoder leaves")
        return symbol

    def _read(self) -> int:
        if self._left == 0:
            self._byte, self._left = self._next_byte(), 8
        bit = self._byte & 1
        self._byte, self._left = self._byte >> 1, self._left - 1
        return bit
