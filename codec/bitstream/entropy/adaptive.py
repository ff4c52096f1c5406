"""The coding `adaptive`: learns from the codes before, without training and without a model file.

A codebook has too many codes to learn within a minute how they follow each other. Most is saved by how often each code
occurs, the rest by the codes that occurred before in the same context. There are two contexts: the code in the previous
frame, and the code of the previous codebook in the same frame. Two experts predict:

    P(s) = n(s) / N                       n starts at 1 and grows by 4; N is its sum
    Q(s) = (c(s) + 64 P(s)) / (C + 64)    c: occurrences in the two contexts; C is their sum

The mixture w P + (1 - w) Q is coded. After each code the weights follow Bayes' rule, and 1/32 of them is redistributed
evenly (Herbster and Warmuth 1998), so that the better expert can change.

Multiplied by N (C + 64), the mixture is an integer combination of n and c. So the interval of a code takes two
cumulative counts, not the probabilities of all codes. A minute of 12 kbit/s takes about a second.
"""

from bisect import bisect_left, bisect_right
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy.range_coder import PRECISION, RangeDecoder, RangeEncoder, floor_size

__all__ = ["AdaptiveCoder"]

Integers = NDArray[np.int64]
_COUNT_STEP = 4
_MAX_COUNT_SUM = 1 << 16  # above it, all counts are halved
_PRIOR_OCCURRENCES = 64  # weight of P in Q, in occurrences
_WEIGHT_SUM = 1 << 10  # of both experts
_MIN_WEIGHT = 16  # of _WEIGHT_SUM, for each expert


class AdaptiveCoder:
    """A `BlockCoder`.

    Args:
        num_codebooks: Codes per frame.
        bits_per_code: Bits of each code.
    """

    def __init__(self, num_codebooks: int, bits_per_code: int) -> None:
        self.num_codebooks = num_codebooks
        self.codebook_size = 1 << bits_per_code
        self.reset()

    def reset(self) -> None:
        """Forgets all codes."""
        self._models = [_CodebookModel(self.codebook_size) for _ in range(self.num_codebooks)]

    def encode(self, codes: Integers) -> bytes:
        """Shape: codes [K, F] -> bytes."""
        coder = RangeEncoder()
        for frame in codes.T.tolist():
            above = -1
            for model, code in zip(self._models, frame, strict=True):
                model.predict(above)
                coder.put(*model.interval(code))
                model.update(code)
                above = code
        return coder.finish()

    def decode(self, data: bytes, frames: int) -> Integers:
        """Inverse of `encode`.

        Shape: bytes -> codes [K, F].

        Raises:
            ValueError: `encode` cannot have returned these bytes.
        """
        coder = RangeDecoder(data)
        codes = np.empty((frames, self.num_codebooks), np.int64)
        for frame in codes:
            above = -1
            for k, model in enumerate(self._models):
                model.predict(above)
                above = model.code_at(coder.peek())
                coder.take(*model.interval(above))
                model.update(above)
                frame[k] = above
        coder.finish()
        return codes.T


class _CodebookModel:
    """The counts of one codebook, and the prediction from them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._floor = floor_size(size)
        self._spread = (1 << PRECISION) - self._floor * size
        self._below = np.arange(size + 1)  # the sum of n over the codes below each code
        # Occurrences in a context. The key is c after the code c in the previous frame, and -1 - c after the code c
        # of the previous codebook.
        self._contexts: dict[int, dict[int, int]] = {}
        self._previous = -1  # code of the previous frame; -1 for none
        self._active_contexts: list[dict[int, int]] = []
        self._weight = _WEIGHT_SUM // 2  # of the first expert

    def predict(self, above: int) -> None:
        """Sets the probabilities of the next code.

        Args:
            above: Code of the previous codebook in the same frame; -1 for the first codebook.
        """
        self._active_contexts = []
        if self._previous >= 0:
            self._active_contexts.append(self._contexts.setdefault(self._previous, {}))
        if above >= 0:
            self._active_contexts.append(self._contexts.setdefault(-1 - above, {}))
        self._count_sum = self._below.item(-1)
        self._occurrence_sum = 0
        for context in self._active_contexts:
            self._occurrence_sum += sum(context.values())
        # The mixture times N (C + 64) _WEIGHT_SUM is count_factor * n(s) + occurrence_factor * c(s).
        other_weight = _WEIGHT_SUM - self._weight
        self._count_factor = self._weight * (self._occurrence_sum + _PRIOR_OCCURRENCES)
        self._count_factor += other_weight * _PRIOR_OCCURRENCES
        self._occurrence_factor = other_weight * self._count_sum
        self._mixture_sum = self._count_sum * (self._occurrence_sum + _PRIOR_OCCURRENCES) * _WEIGHT_SUM

    def interval(self, code: int) -> tuple[int, int]:
        """Start and size of the code's interval of 2^24."""
        below = until = 0
        for context in self._active_contexts:
            for other, count in context.items():
                if other <= code:
                    until += count
                    if other < code:
                        below += count
        start = self._boundary(code, below)
        return start, self._boundary(code + 1, until) - start

    def code_at(self, point: int) -> int:
        """The code whose interval contains a point from 0 to 2^24 - 1."""
        occurrences = sorted(item for context in self._active_contexts for item in context.items())
        codes = [code for code, _ in occurrences]
        sums = [0, *accumulate(count for _, count in occurrences)]
        starts = range(self._size)
        return bisect_right(starts, point, key=lambda code: self._boundary(code, sums[bisect_left(codes, code)])) - 1

    def update(self, code: int) -> None:
        """Learns the code that `predict` predicted."""
        count = self._below.item(code + 1) - self._below.item(code)
        occurrences = 0
        for context in self._active_contexts:
            occurrences += context.get(code, 0)
            context[code] = context.get(code, 0) + 1
        evidence = self._weight * count * (self._occurrence_sum + _PRIOR_OCCURRENCES)
        other = occurrences * self._count_sum + _PRIOR_OCCURRENCES * count
        total = evidence + (_WEIGHT_SUM - self._weight) * other
        self._weight = _MIN_WEIGHT + (_WEIGHT_SUM - 2 * _MIN_WEIGHT) * evidence // total
        self._previous = code
        self._below[code + 1 :] += _COUNT_STEP
        if self._below[-1] > _MAX_COUNT_SUM + self._size:
            self._below[1:] = ((np.diff(self._below) + 1) // 2).cumsum()

    def _boundary(self, code: int, occurrences_below: int) -> int:
        mixture = self._count_factor * self._below.item(code) + self._occurrence_factor * occurrences_below
        return mixture * self._spread // self._mixture_sum + self._floor * code
