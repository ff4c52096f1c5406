"""Ranges of settings, as annotations, and their check when an object is made.

`scripts.values` checks a whole configuration against the same annotations before anything is built. `losses` and
`balancer` import nothing of this project: their ranges are in `losses.ranges` and `balancer.checks`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

__all__ = [
    "MAX_CODEBOOK_SIZE",
    "Bandwidth",
    "BatchSize",
    "Channels",
    "CodebookCount",
    "CodebookSize",
    "Count",
    "Decibels",
    "Depth",
    "Hertz",
    "Name",
    "NonNegativeFloat",
    "NonNegativeInt",
    "NumWorkers",
    "OptionalSeconds",
    "OptionalSize",
    "PositiveFloat",
    "PositiveFraction",
    "PositiveInt",
    "Probability",
    "ProperFraction",
    "SampleRate",
    "Seconds",
    "SegmentSeconds",
    "Size",
    "Stride",
    "Weights",
    "check_ranges",
]

# Upper limits are far above sensible values. Beyond them, memory and time would run out.
MAX_CODEBOOK_SIZE = 1 << 16  # the entropy coders have tables of this size

# Whole numbers.
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
BatchSize = Annotated[int, Ge(1), Le(1 << 20)]
Channels = Annotated[int, Ge(1), Le(2)]  # of audio
CodebookCount = Annotated[int, Ge(1), Le(1024)]
CodebookSize = Annotated[int, Ge(2), Le(MAX_CODEBOOK_SIZE)]
Count = Annotated[int, Ge(1), Le(10_000)]
Depth = Annotated[int, Ge(0), Le(100)]  # number of layers
Hertz = Annotated[int, Ge(0), Le(10_000_000)]  # a bandwidth
SampleRate = Annotated[int, Ge(1), Le(10_000_000)]  # in Hz
Size = Annotated[int, Ge(1), Le(1 << 17)]  # of a layer, a kernel or a window
NumWorkers = Annotated[int, Ge(0), Le(1024)]
OptionalSize = Annotated[int, Ge(0), Le(1 << 17)]  # 0 for none
Stride = Annotated[int, Ge(1), Le(1 << 12)]

# Other numbers, all of them finite.
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Bandwidth = Annotated[float, Gt(0), Le(1_000_000)]  # in kbit/s
Decibels = Annotated[float, Ge(-200), Le(200)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
ProperFraction = Annotated[float, Ge(0), Lt(1)]  # less than the whole; the decay of an average
Probability = Annotated[float, Ge(0), Le(1)]
Seconds = Annotated[float, Gt(0), Le(86_400)]
OptionalSeconds = Annotated[float, Ge(0), Le(86_400)]  # 0 for none
SegmentSeconds = Annotated[float, Gt(0), Le(3600)]

Name = Annotated[str, MinLen(1)]  # of a file or folder
Weights = Mapping[str, NonNegativeFloat]  # relative frequency of each source


def check_ranges(declared: Callable[..., Any], values: Mapping[str, Any], path: str = "") -> None:
    """Checks values against annotations: numbers with a range, choices (`Literal`), and lists of them.

    Args:
        declared: A dataclass, or a function such as `__init__`, with the annotations.
        values: Name -> value, such as `vars(self)` or `locals()`. Names without a range are ignored.
        path: Text before each name in a message, such as "trainer.".

    Raises:
        ValueError: Names the first setting that is out of range, the range and the value.
    """
    for name, kind in get_type_hints(declared, include_extras=True).items():
        if name in values:
            _check(path + name, values[name], kind)


def _check(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) in (Union, UnionType):
        kinds = [each for each in get_args(kind) if each is not NoneType]
        if value is None or len(kinds) > 1:
            return
        kind = kinds[0]
    base, *limits = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(base) is Literal:
        if value not in get_args(base):
            raise ValueError(f"{name} must be one of {', '.join(get_args(base))}, got {value!r}")
    elif get_origin(base) is Sequence:
        least = next((limit.min_length for limit in limits if isinstance(limit, MinLen)), 0)
        if not isinstance(value, Sequence) or len(value) < least:
            raise ValueError(f"{name} must be a list{f' of {least} or more' if least else ''}, got {value!r}")
        for index, each in enumerate(value):
            _check(f"{name}.{index}", each, get_args(base)[0])
    elif base in (int, float) and limits:
        is_number = isinstance(value, int if base is int else int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < math.inf or not all(_satisfies(value, limit) for limit in limits):
            number = "a whole number" if base is int else "a number"
            raise ValueError(f"{name} must be {number} in {_interval(limits)}, got {value!r}")


def _satisfies(value: Any, limit: Any) -> bool:
    match limit:
        case Ge(bound):
            return bool(value >= bound)
        case Gt(bound):
            return bool(value > bound)
        case Le(bound):
            return bool(value <= bound)
        case Lt(bound):
            return bool(value < bound)
    return True


def _interval(limits: Sequence[Any]) -> str:
    """Such as "[0, 1)"."""
    low, high = "(-inf", "inf)"
    for limit in limits:
        match limit:
            case Ge(bound):
                low = f"[{bound}"
            case Gt(bound):
                low = f"({bound}"
            case Le(bound):
                high = f"{bound}]"
            case Lt(bound):
                high = f"{bound})"
    return f"{low}, {high}"
