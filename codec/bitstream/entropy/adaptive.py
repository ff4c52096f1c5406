"""The coding `adaptive`: learns from the codes before, needs no training and no model.

A book has too many codes to learn how they follow each other within a minute, so most is saved by how often each
occurs, and the rest by what occurred in the same context before: after the same code in the frame before, and above the
same code of the book below. Two experts predict, both in whole numbers out of 2^28:

    P(s) = n(s) / sum n                                    n starts at 1 and grows by 4
    Q(s) = (a(s) + b(s) + 64 P(s)) / (sum a + sum b + 64)  a, b: occurrences in the two contexts

The mixture w P + (1 - w) Q is coded. After each code the weights follow Bayes' rule, and 1/64 of them is shared out
anew (Herbster and Warmuth 1998), so that the better expert may change.
"""

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy.frequencies import counts_of
from codec.bitstream.entropy.range_coder import RangeDecoder, RangeEncoder

__all__ = ["AdaptiveCoding"]

Integers = NDArray[np.int64]
_ONE = 1 << 28  # probability 1
_STEP = 4
_OCCURRENCES_LIMIT = 1 << 16  # sum of n, beyond which it is halved
_TRUST = 64  # occurrences in a context that weigh as much as all others
_WEIGHT = 1 << 10  # of both experts together
_SHARE = 16  # of _WEIGHT, goes to each expert before the rest is divided


class AdaptiveCoding:
    """A `BlockCoding`.

    Args:
        codebooks: Codes per frame.
        bits_per_code: Of which each has.
    """

    def __init__(self, codebooks: int, bits_per_code: int) -> None:
        self.codebooks = codebooks
        self.codebook_size = 1 << bits_per_code
        self.reset()

    def reset(self) -> None:
        """Forgets all codes."""
        self._books = [_Book(self.codebook_size) for _ in range(self.codebooks)]

    def encode(self, codes: Integers) -> bytes:
        """Shape: codes [K, F] -> bytes."""
        coder = RangeEncoder()
        for frame in codes.T:
            below = -1
            for book, code in zip(self._books, frame.tolist(), strict=True):
                coder.put(np.array([code]), counts_of(book.weights(below))[None])
                book.learn(code)
                below = code
        return coder.finish()

    def decode(self, data: bytes, frames: int) -> Integers:
        """Inverse of `encode`.

        Shape: bytes -> codes [K, F].

        Raises:
            ValueError: No codes were encoded to these bytes.
        """
        coder = RangeDecoder(data)
        codes = np.empty((frames, self.codebooks), np.int64)
        for frame in codes:
            below = -1
            for k, book in enumerate(self._books):
                below = coder.take(counts_of(book.weights(below)))
                book.learn(below)
                frame[k] = below
        coder.finish()
        return codes.T


class _Book:
    """What is known of one book, and how it is predicted."""

    def __init__(self, size: int) -> None:
        self._n = np.ones(size, np.int64)
        self._sum = size
        self._contexts: dict[int, dict[int, int]] = {}  # occurrences after a code c at c, above a code c at -1 - c
        self._before = -1  # the code of the frame before, none at first
        self._weight = _WEIGHT // 2  # of the first expert
        self._rows: tuple[dict[int, int], ...] = ()
        self._experts = (self._n, self._n)

    def weights(self, below: int) -> Integers:
        """What to expect above the code `below` of the book below, -1 if there is none.

        Shape: -> [S], sum about 2^38.
        """
        keys = ([self._before] if self._before >= 0 else []) + ([-1 - below] if below >= 0 else [])
        self._rows = tuple(self._contexts.setdefault(key, {}) for key in keys)
        often = self._n * _ONE // self._sum
        here = often * _TRUST
        seen = 0
        for row in self._rows:
            for code, count in row.items():
                here[code] += count * _ONE
                seen += count
        here //= seen + _TRUST
        self._experts = (often, here)
        mixture: Integers = self._weight * often + (_WEIGHT - self._weight) * here
        return mixture

    def learn(self, code: int) -> None:
        """Takes in the code that `weights` was asked about."""
        often, here = (int(expert[code]) for expert in self._experts)
        evidence = self._weight * often
        total = evidence + (_WEIGHT - self._weight) * here
        self._weight = _SHARE + (_WEIGHT - 2 * _SHARE) * evidence // max(1, total)
        for row in self._rows:
            row[code] = row.get(code, 0) + 1
        self._before = code
        self._n[code] += _STEP
        self._sum += _STEP
        if self._sum > _OCCURRENCES_LIMIT + len(self._n):
            self._n = (self._n + 1) // 2
            self._sum = int(self._n.sum())
