"""Ranges of settings, as annotations; `scripts.values` checks a configuration against them.

Upper limits are far above sensible values. Beyond them, memory and time would run out.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le

__all__ = ["Fraction", "NonNegativeFloat", "PositiveFloat", "SampleRate", "Size"]

Fraction = Annotated[float, Ge(0), Le(1)]
NonNegativeFloat = Annotated[float, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
SampleRate = Annotated[int, Ge(1), Le(10_000_000)]  # in Hz
Size = Annotated[int, Ge(1), Le(1 << 17)]  # of a window, or of a layer
