"""Ranges of settings: which values are refused, against pydantic, and what the message says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError

import losses.ranges
from codec import ranges
from codec.ranges import check_ranges

VALUES = [
    -201,
    -1,
    -1e-9,
    0,
    0.0,
    1e-9,
    0.5,
    1,
    1.0,
    2,
    2.5,
    3,
    1e7,
    True,
    None,
    "1",
    [],
    math.nan,
    math.inf,
    -math.inf,
]


def numbers(module: ModuleType) -> dict[str, Any]:
    kinds = {name: getattr(module, name) for name in module.__all__}
    return {name: kind for name, kind in kinds.items() if get_args(kind) and get_args(kind)[0] in (int, float)}


def refused(kind: Any, value: Any) -> bool:
    def declared(x: Any) -> None: ...

    declared.__annotations__ = {"x": kind}
    try:
        check_ranges(declared, {"x": value})
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("name", numbers(ranges))
def test_each_range_refuses_what_pydantic_refuses(name: str) -> None:
    kind = getattr(ranges, name)
    limits = [getattr(limit, limit.__match_args__[0]) for limit in get_args(kind)[1:]]
    near = [limit + step for limit in limits for step in (-1, 0, 1)]
    adapter = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
    for value in [*VALUES, *near]:
        try:
            adapter.validate_python(value)
        except ValidationError:
            assert refused(kind, value), value
        else:
            assert not refused(kind, value), value


def test_ranges_of_one_name_are_equal_in_losses() -> None:
    """`losses` imports nothing of `codec`, so it has ranges of its own."""
    shared = set(losses.ranges.__all__) & set(ranges.__all__)
    assert {"Size", "SampleRate"} <= shared
    assert all(getattr(losses.ranges, name) == getattr(ranges, name) for name in shared)


@dataclass
class Settings:
    whole: Annotated[int, Ge(1), Le(9)] = 1
    narrower: Annotated[Annotated[int, Ge(1), Le(9)], Ge(3)] = 3
    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    limit: Annotated[float, Ge(0)] | None = None
    choice: Literal["a", "b"] = "a"
    sizes: Annotated[Sequence[Annotated[int, Ge(2)]], MinLen(1)] = (2,)
    choices: Sequence[Literal["a", "b"]] = ()
    free: Any = None
    either: int | str = 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"whole": 0}, "whole must be a whole number in [1, 9], got 0"),
        ({"whole": 10**400}, "whole must be a whole number in [1, 9], got 1000"),
        ({"narrower": 2}, "narrower must be a whole number in [3, 9], got 2"),
        ({"share": 1}, "share must be a number in (0, 1), got 1"),
        ({"limit": math.inf}, "limit must be a number in [0, inf), got inf"),
        ({"choice": "c"}, "choice must be one of a, b, got 'c'"),
        ({"choice": ["a"]}, "choice must be one of a, b, got ['a']"),
        ({"sizes": ()}, "sizes must be a list of 1 or more, got ()"),
        ({"sizes": 3}, "sizes must be a list of 1 or more, got 3"),
        ({"sizes": (2, 1)}, "sizes.1 must be a whole number in [2, inf), got 1"),
        ({"choices": 3}, "choices must be a list, got 3"),
        ({"choices": ["a", "c"]}, "choices.1 must be one of a, b, got 'c'"),
    ],
)
def test_the_message_names_setting_range_and_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        check_ranges(Settings, values, "part.")
    assert str(error.value).startswith(f"part.{message}")


def test_what_has_no_range_is_not_checked() -> None:
    check_ranges(Settings, vars(Settings()) | {"free": object(), "either": None, "unknown": -1, "limit": None})
