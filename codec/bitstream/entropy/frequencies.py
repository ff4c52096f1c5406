"""Integer weights of symbols into the frequencies of a range coder, in integers throughout."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRECISION", "WEIGHT_LIMIT", "counts_of"]

PRECISION = 24  # the frequencies of all symbols sum up to 2 ** PRECISION
_FLOOR_BITS = 8  # 2 ** -_FLOOR_BITS of that is shared out evenly
WEIGHT_LIMIT = (1 << (63 - PRECISION)) - 1  # of a weight, so that its product with the sum fits 63 bits


def counts_of(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """What to give to the range coder, which adds one to each count: so many that frequencies sum to 2^24.

    A symbol gets 1/256 of the even share at least, which costs 0.006 bits a code. So no symbol is ever impossible, and
    no code takes less than -log2(1 - 1/512) = 1/355 bit, that of a two-letter alphabet: `_CODES_PER_BYTE` of
    `codec.bitstream.reader` rests on it.

    Shape: weights [..., S], from 0 to `WEIGHT_LIMIT`, not all 0 -> counts [..., S], each row of sum 2^24 - S.
    """
    size = weights.shape[-1]
    free = (1 << PRECISION) - size
    floor = (free >> _FLOOR_BITS) // size
    spread = free - floor * size
    counts: NDArray[np.int64] = floor + weights * spread // weights.sum(-1, keepdims=True)
    # Rounding down left fewer than S over; the likeliest symbol feels them least.
    likeliest = weights.argmax(-1)[..., None]
    rest = free - counts.sum(-1, keepdims=True)
    np.put_along_axis(counts, likeliest, np.take_along_axis(counts, likeliest, -1) + rest, -1)
    return counts
