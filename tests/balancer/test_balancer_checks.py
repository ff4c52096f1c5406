"""Checks of settings: intervals, choices and loss names."""

import math
import re

import pytest

from balancer.checks import check_choice, check_names, check_range


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.5], [-1e-9, 1.0, math.nan]),
        ("(0, inf)", [1e-300, 1e300], [0.0, math.inf, -1.0]),
        ("[0.5, 4]", [0.5, 4], [0.4, 4.1]),
    ],
)
def test_an_interval_includes_its_square_brackets_only(
    interval: str, inside: list[float], outside: list[float]
) -> None:
    for value in inside:
        check_range(interval, decay=value)
    for value in outside:
        with pytest.raises(ValueError, match=re.escape(f"decay must be in {interval}, got {value}")):
            check_range(interval, decay=value)


def test_choices_and_names_are_listed() -> None:
    check_choice(("item", "batch"), norm_over="item")
    with pytest.raises(ValueError, match="norm_over must be one of item, batch, got 'sample'"):
        check_choice(("item", "batch"), norm_over="sample")
    check_names(["mel"], {"mel": 1.0, "l1": 2.0}, "leak")
    with pytest.raises(ValueError, match="leak must name losses among mel, l1, got stft"):
        check_names(["mel", "stft"], {"mel": 1.0, "l1": 2.0}, "leak")
