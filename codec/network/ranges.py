"""Ranges of settings. Beyond the limits, which are far above sensible values, memory and time would run out."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

__all__ = ["Depth", "LookAhead", "Size", "Stride"]

Size = Annotated[int, Gt(0), Le(1 << 17)]  # of a layer, a kernel or a window
Depth = Annotated[int, Ge(0), Le(100)]  # number of layers
LookAhead = Annotated[int, Ge(0), Le(1 << 17)]  # frames
Stride = Annotated[int, Gt(0), Le(1 << 12)]
