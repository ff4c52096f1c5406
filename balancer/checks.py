"""Checks of settings, one line for each."""

from collections.abc import Iterable, Mapping

__all__ = ["check_choice", "check_names", "check_range"]


def check_range(interval: str, **settings: float) -> None:
    """Checks that settings lie in an interval such as "[0, 1)" or "(0, inf)". NaN lies in no interval.

    Raises:
        ValueError: Names the setting, the interval and the value.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in settings.items():
        if not (low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")):
            raise ValueError(f"{name} must be in {interval}, got {value}")


def check_choice(choices: Iterable[str], **settings: str) -> None:
    """Checks that settings are one of the choices.

    Raises:
        ValueError: Names the setting, the choices and the value.
    """
    for name, value in settings.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_names(losses: Iterable[str], weights: Mapping[str, float], setting: str) -> None:
    """Checks that every name in a setting is the name of a loss.

    Raises:
        ValueError: Names the setting, the losses and the unknown names.
    """
    unknown = sorted(set(losses) - set(weights))
    if unknown:
        raise ValueError(f"{setting} must name losses among {', '.join(weights)}, got {', '.join(unknown)}")
