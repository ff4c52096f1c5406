"""The coding `adaptive`: learns from the codes before, without training and without a model file.

A codebook has too many codes to learn within a minute how they follow each other. Most is saved by how often each code
occurs, the rest by the codes that occurred before in the same context. There are two contexts: the code in the previous
frame, and the code of the previous codebook in the same frame. Two experts predict, both in integers out of 2^28:

    P(s) = n(s) / sum n                                    n starts at 1 and grows by 4
    Q(s) = (a(s) + b(s) + 64 P(s)) / (sum a + sum b + 64)  a, b: occurrences in the two contexts

The mixture w P + (1 - w) Q is coded. After each code the weights follow Bayes' rule, and 1/32 of them is redistributed
evenly (Herbster and Warmuth 1998), so that the better expert can change.
"""

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy.range_coder import RangeDecoder, RangeEncoder, symbol_counts

__all__ = ["AdaptiveCoder"]

Integers = NDArray[np.int64]
_ONE = 1 << 28  # probability 1
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
        for frame in codes.T:
            above = -1
            for model, code in zip(self._models, frame.tolist(), strict=True):
                coder.put(np.array([code]), symbol_counts(model.weights(above))[None])
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
                above = coder.take(symbol_counts(model.weights(above)))
                model.update(above)
                frame[k] = above
        coder.finish()
        return codes.T


class _CodebookModel:
    """The counts of one codebook, and the prediction from them."""

    def __init__(self, size: int) -> None:
        self._counts = np.ones(size, np.int64)
        self._count_sum = size
        # Occurrences in a context. The key is c after the code c in the previous frame, and -1 - c after the code c
        # of the previous codebook.
        self._contexts: dict[int, dict[int, int]] = {}
        self._previous = -1  # code of the previous frame; -1 for none
        self._weight = _WEIGHT_SUM // 2  # of the first expert
        self._active_contexts: tuple[dict[int, int], ...] = ()
        self._experts = (self._counts, self._counts)

    def weights(self, above: int) -> Integers:
        """Unnormalized probabilities of the next code.

        Args:
            above: Code of the previous codebook in the same frame; -1 for the first codebook.

        Shape: -> [S], with a sum of about 2^38.
        """
        keys = ([self._previous] if self._previous >= 0 else []) + ([-1 - above] if above >= 0 else [])
        self._active_contexts = tuple(self._contexts.setdefault(key, {}) for key in keys)
        overall = self._counts * _ONE // self._count_sum
        in_context = overall * _PRIOR_OCCURRENCES
        occurrences = 0
        for context in self._active_contexts:
            for code, count in context.items():
                in_context[code] += count * _ONE
                occurrences += count
        in_context //= occurrences + _PRIOR_OCCURRENCES
        self._experts = (overall, in_context)
        mixture: Integers = self._weight * overall + (_WEIGHT_SUM - self._weight) * in_context
        return mixture

    def update(self, code: int) -> None:
        """Learns the code that `weights` predicted."""
        overall, in_context = (int(expert[code]) for expert in self._experts)
        evidence = self._weight * overall
        total = evidence + (_WEIGHT_SUM - self._weight) * in_context
        self._weight = _MIN_WEIGHT + (_WEIGHT_SUM - 2 * _MIN_WEIGHT) * evidence // max(1, total)
        for context in self._active_contexts:
            context[code] = context.get(code, 0) + 1
        self._previous = code
        self._counts[code] += _COUNT_STEP
        self._count_sum += _COUNT_STEP
        if self._count_sum > _MAX_COUNT_SUM + len(self._counts):
            self._counts = (self._counts + 1) // 2
            self._count_sum = int(self._counts.sum())
