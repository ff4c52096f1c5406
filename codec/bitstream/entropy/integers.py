"""Arithmetic of a network in whole numbers: the same result on every machine, with any threads, in any batch.

Numbers are int64. A product of matrices is taken in float64, because that is fast, with whole-numbered operands: each
product and each partial sum stays below 2^53 in magnitude, where float64 holds every whole number, so nothing is ever
rounded and neither the order of summation nor fused multiply-add can matter. `product` bounds it: operands are at most
2^23 and 2^15 (or both 2^23 at 2^6 terms), and terms at most 2^14, which makes 2^52.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIMIT", "TERMS_LIMIT", "WEIGHT_BITS", "clamp", "power_of_half", "product", "root", "scale_down"]

Integers = NDArray[np.int64]
LIMIT = (1 << 23) - 1  # of an activation
WEIGHT_BITS = 15  # a weight is less than 2 ** WEIGHT_BITS in magnitude
TERMS_LIMIT = 1 << 14  # of a sum of products of activation and weight
EXPONENT_BITS = 10  # fractional bits of the exponents `power_of_half` takes
POWER_BITS = 30  # fractional bits of what it gives


def clamp(x: Integers, limit: int = LIMIT) -> Integers:
    """Shape: [...] -> [...] with values from -limit to limit."""
    # Twice as fast as np.clip on arrays as small as one frame's.
    clipped: Integers = np.minimum(np.maximum(x, -limit), limit)
    return clipped


def product(a: Integers, b: NDArray[np.float64]) -> Integers:
    """The matrix product, exactly; the caller keeps the bound of this module's head.

    Shape: a [..., N, I], b [..., I, O] of whole numbers -> [..., N, O].
    """
    result: Integers = (a.astype(np.float64) @ b).astype(np.int64)
    return result


def scale_down(x: Integers, bits: int) -> Integers:
    """x / 2 ** bits, rounded to the nearest, halves up; bits may be negative.

    Shape: [...] -> [...].
    """
    return (x + (1 << bits - 1)) >> bits if bits > 0 else x << -bits


def root(x: Integers) -> Integers:
    """The floor of the square root, of values below 2^60.

    Shape: [...] -> [...].
    """
    guess = np.sqrt(x.astype(np.float64)).astype(np.int64)  # right, or one off where the machine rounds oddly
    guess -= guess * guess > x
    guess += (guess + 1) * (guess + 1) <= x
    return guess


def power_of_half(x: Integers) -> Integers:
    """2 ** (30 - x / 1024) of x >= 0, rounded down; 0 from x = 31 * 1024 on.

    Shape: [...] -> [...].
    """
    return _POWERS[x & ((1 << EXPONENT_BITS) - 1)] >> np.minimum(x >> EXPONENT_BITS, POWER_BITS + 1)


def _powers() -> Integers:
    """2 ** (30 - j / 1024) for j < 1024, from repeated square roots of 1/2 with 128 fractional bits."""
    guard = 128
    powers = [1 << guard]
    factor = 1 << guard - 1
    for _ in range(EXPONENT_BITS):
        factor = math.isqrt(factor << guard)
        # Exponents with one binary digit more: between each and the next lies the old one times the new root.
        powers = [p for old in powers for p in (old, old * factor >> guard)]
    return np.array([p >> guard - POWER_BITS for p in powers], np.int64)


_POWERS = _powers()
