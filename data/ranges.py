"""Ranges of settings, which are checked before any audio is read."""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Gt, Le, MinLen

__all__ = ["Count", "Decibels", "Hertz", "Name", "Probability", "Rate", "Seconds", "Weights"]

Count = Annotated[int, Gt(0), Le(10_000)]
Decibels = Annotated[float, Ge(-200), Le(200)]
Hertz = Annotated[int, Ge(0), Le(10_000_000)]
Name = Annotated[str, MinLen(1)]  # of a file or folder
Probability = Annotated[float, Ge(0), Le(1)]
Rate = Annotated[int, Gt(0), Le(10_000_000)]  # of samples, in Hz
Seconds = Annotated[float, Gt(0), Le(86_400)]
Weights = Mapping[str, Annotated[float, Ge(0)]]  # relative frequency of each source
