"""Integer arithmetic of a network: the same result on every machine, with any number of threads, in any batch.

Numbers are int64. Matrix products are computed in float64, which is faster, with integer operands. Every product and
every partial sum stays below 2^53 in magnitude, where float64 represents all integers. So nothing is rounded, and the
order of summation and fused multiply-add have no effect. The bound: operands are at most 2^23 and 2^15 with at most
2^14 terms, or both 2^23 with at most 2^6 terms, which is 2^52.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXPONENT_BITS", "MAX_ACTIVATION", "MAX_TERMS", "POWER_BITS", "WEIGHT_BITS", "clamp", "integer_sqrt",
           "power_of_half", "product", "shift_right"]  # fmt: skip

Integers = NDArray[np.int64]
MAX_ACTIVATION = (1 << 23) - 1
WEIGHT_BITS = 15  # a weight is below 2 ** WEIGHT_BITS in magnitude
MAX_TERMS = 1 << 14  # of a sum of products of activations and weights
EXPONENT_BITS = 10  # fractional bits of the exponents of `power_of_half`
POWER_BITS = 30  # fractional bits of its result


def clamp(x: Integers, limit: int = MAX_ACTIVATION) -> Integers:
    """Shape: [...] -> [...] with values from -limit to limit."""
    # Twice as fast as np.clip for arrays of one frame.
    clipped: Integers = np.minimum(np.maximum(x, -limit), limit)
    return clipped


def product(a: Integers, b: NDArray[np.float64]) -> Integers:
    """The exact matrix product. The caller respects the bound in the docstring of this module.

    Shape: a [..., N, I], b [..., I, O] with integer values -> [..., N, O].
    """
    result: Integers = (a.astype(np.float64) @ b).astype(np.int64)
    return result


def shift_right(x: Integers, bits: int) -> Integers:
    """x / 2 ** bits, rounded to the nearest integer, halves up. A negative `bits` shifts to the left.

    Shape: [...] -> [...].
    """
    return (x + (1 << bits - 1)) >> bits if bits > 0 else x << -bits


def integer_sqrt(x: Integers) -> Integers:
    """Floor of the square root, for values below 2^60.

    Shape: [...] -> [...].
    """
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)  # exact, or off by one
    root -= root * root > x
    root += (root + 1) * (root + 1) <= x
    return root


def power_of_half(x: Integers) -> Integers:
    """2 ** (30 - x / 1024) for x >= 0, rounded down; 0 from x = 31 * 1024 on.

    Shape: [...] -> [...].
    """
    return _POWERS[x & ((1 << EXPONENT_BITS) - 1)] >> np.minimum(x >> EXPONENT_BITS, POWER_BITS + 1)


def _powers() -> Integers:
    """2 ** (30 - j / 1024) for j < 1024, from repeated square roots of 1/2 with 128 fractional bits."""
    fraction_bits = 128
    powers = [1 << fraction_bits]
    factor = 1 << fraction_bits - 1
    for _ in range(EXPONENT_BITS):
        factor = math.isqrt(factor << fraction_bits)
        # One more binary digit of the exponent: each power p is followed by p times the new root.
        powers = [p for old in powers for p in (old, old * factor >> fraction_bits)]
    return np.array([p >> fraction_bits - POWER_BITS for p in powers], np.int64)


_POWERS = _powers()
