"""The arithmetic coder of the encodec package (Défossez et al. 2022, section 3.3), bit for bit.

Encoder and decoder keep one interval [low, high]. While it is narrower than 2^24 they double it, which takes one bit of
the file each time. Then the interval shrinks to the share of the symbol. Leading bits that both ends have in common are
final and are shifted out.

The package scales table entries to the interval in floating point. Entries have at most 25 bits, and so does the
interval. Such products are exact in a double, so the integers here give the same results. The tables are computed from
float32 probabilities, which encoder and decoder must have to the last bit.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["MIN_BITS", "RangeDecoder", "RangeEncoder", "cumulative_tables"]

_BITS = 24
_WIDTH = 1 << _BITS
_MIN_SHARE = 2  # of 2^24, for every symbol
_ROUNDING = 1e-8  # probabilities are rounded down to multiples of it
# Limit for bits that are not final. The package's coder gives up at 62, which does not happen by chance. Without a
# limit, a crafted file could make the decoder compute with integers as long as the file.
_MAX_PENDING_BITS = 1 << 10
# Lower bound for the bits of a symbol. Its share is at most 1 - 2 (size - 1) / 2^24, which is 1.8e-4 bits for 1024
# codes.
MIN_BITS = 2.0**-13


def cumulative_tables(probabilities: Tensor) -> NDArray[np.int64]:
    """For each of K distributions, where in 2^24 the share of each symbol ends.

    Shape: probabilities [size, K] float32 -> [K, size], increasing by at least 2.

    Raises:
        ValueError: A probability is not finite.
    """
    if not bool(probabilities.isfinite().all()):
        raise ValueError("the language model gave a probability that is not finite")
    rounded = (probabilities / _ROUNDING).floor() * _ROUNDING
    reserved = _MIN_SHARE * len(probabilities) / _WIDTH
    shares = (((1 - reserved) * _WIDTH) * rounded).floor().long() + _MIN_SHARE
    tables: NDArray[np.int64] = shares.cumsum(0).t().contiguous().cpu().numpy()
    return tables


class _Interval:
    """The interval of all symbols so far, without its final bits."""

    def __init__(self) -> None:
        self.low = 0
        self.high = 0
        self.pending_bits = 0  # bits of `low` and `high`

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    def double(self) -> None:
        self.low, self.high, self.pending_bits = 2 * self.low, 2 * self.high + 1, self.pending_bits + 1

    def narrow(self, symbol: int, table: NDArray[np.int64]) -> None:
        """Narrows the interval to the share of a symbol.

        Rounding up can make a table end beyond 2^24, and then the last shares may lie outside the interval. The
        package's coder stops there, too.

        Raises:
            ValueError: The share lies outside the interval.
        """
        begin, end = int(table[symbol - 1]) if symbol else 0, int(table[symbol])
        width = self.width
        self.high = self.low + ((end - 1) * width >> _BITS)
        self.low -= -begin * width >> _BITS  # rounded up
        if self.high >> self.pending_bits:
            raise ValueError("the probabilities of the language model add up to more than 1, so a code has no bits")

    def pop_final_bit(self) -> int | None:
        """Removes and returns the leading bit, if both ends have the same; otherwise returns None."""
        if self.pending_bits == 0:
            return None
        top = self.pending_bits - 1
        bit = self.low >> top
        if self.high >> top != bit:
            return None
        self.low, self.high, self.pending_bits = self.low - (bit << top), self.high - (bit << top), top
        return bit


class RangeEncoder:
    """Encodes symbols to bytes."""

    def __init__(self) -> None:
        self._interval = _Interval()
        self._data = bytearray()
        self._byte, self._filled_bits = 0, 0

    def push(self, symbol: int, table: NDArray[np.int64]) -> None:
        """Appends a symbol.

        Args:
            table: A row of `cumulative_tables`.

        Raises:
            ValueError: The table has no room for this symbol, see `_Interval.narrow`.
        """
        interval = self._interval
        while interval.width < _WIDTH:
            interval.double()
        interval.narrow(symbol, table)
        while (bit := interval.pop_final_bit()) is not None:
            self._write(bit)

    def finish(self) -> bytes:
        """Returns all bytes. No symbol can follow."""
        for place in reversed(range(self._interval.pending_bits)):
            self._write(self._interval.low >> place & 1)
        if self._filled_bits:
            self._data.append(self._byte)
        return bytes(self._data)

    def _write(self, bit: int) -> None:
        self._byte |= bit << self._filled_bits
        self._filled_bits += 1
        if self._filled_bits == 8:
            self._data.append(self._byte)
            self._byte, self._filled_bits = 0, 0


class RangeDecoder:
    """Decodes bytes to symbols. It consumes exactly the bytes that the encoder wrote, so that others can follow.

    Args:
        next_byte: Returns the next byte of the file, or raises an error at its end.
    """

    def __init__(self, next_byte: Callable[[], int]) -> None:
        self._next_byte = next_byte
        self._interval = _Interval()
        self._value = 0  # the bits of the file, without the final ones
        self._byte, self._unread_bits = 0, 0

    def pull(self, table: NDArray[np.int64]) -> int:
        """Returns the next symbol.

        Args:
            table: Exactly the table that the encoder used.

        Raises:
            ValueError: An encoder with these tables cannot have written these bits.
        """
        interval = self._interval
        while interval.width < _WIDTH:
            interval.double()
            self._value = 2 * self._value + self._read()
        offset = self._value - interval.low
        # The first share whose last position, floor((end - 1) * width / 2^24), is at or after `offset`.
        end = 1 - (-(offset << _BITS) // interval.width)
        symbol = int(np.searchsorted(table, end))
        if symbol < len(table):
            interval.narrow(symbol, table)
        if symbol == len(table) or not interval.low <= self._value <= interval.high:
            raise ValueError("its bits stand for no code")
        while (bit := interval.pop_final_bit()) is not None:
            self._value -= bit << interval.pending_bits
        if interval.pending_bits > _MAX_PENDING_BITS:
            raise ValueError(f"more than {_MAX_PENDING_BITS} of its bits are not final")
        return symbol

    def _read(self) -> int:
        if self._unread_bits == 0:
            self._byte, self._unread_bits = self._next_byte(), 8
        bit = self._byte & 1
        self._byte, self._unread_bits = self._byte >> 1, self._unread_bits - 1
        return bit
