"""Held-out scores of a run: a table beside those of its start, and a line for the console."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from codec.evaluation.metrics import describe

__all__ = [
    "Score",
    "duration",
    "in_short",
    "number",
    "score_keys",
    "score_table",
    "shown",
]

Record = Mapping[str, Any]

_UNKNOWN, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


class Score(NamedTuple):
    """One held-out score, at the first validation and now."""

    group: str
    metric: str
    first: str
    now: str
    change: str


def score_table(validation: Sequence[Record]) -> list[Score]:
    """A row for each score of the validation records of a run, in the order in which they appear."""
    scores = []
    for key in score_keys(validation):
        group, _, metric = key.rpartition("/")
        values = [number(record.get(key)) for record in validation]
        first, now = values[0], values[-1]
        change = _UNKNOWN
        if len(values) > 1 and np.isfinite([first, now]).all():
            if metric.endswith("_db"):
                change = f"{now - first:+.1f} dB"
            elif first:
                change = f"{now / first - 1:+.0%}"
        scores.append(Score(group, describe(metric).heading, shown(first), shown(now), change.replace("-", _MINUS)))
    return scores


def in_short(scores: Mapping[str, float]) -> str:
    """The mel distance over all clips and in each group, and the SI-SDR; all there is where these are missing."""
    mel = {key.removesuffix("/mel_distance"): value for key, value in scores.items() if key.endswith("/mel_distance")}
    if "all" not in mel:
        return "  ".join(f"{name} {value:.4g}" for name, value in scores.items() if not name.startswith("codebook/"))
    groups = ", ".join(f"{group} {value:.3g}" for group, value in mel.items() if group != "all")
    sdr = f"  SI-SDR {scores['all/si_sdr_db']:.1f} dB" if "all/si_sdr_db" in scores else ""
    return f"mel distance {mel['all']:.4g}{f' ({groups})' if groups else ''}{sdr}"


def score_keys(validation: Sequence[Record]) -> list[str]:
    """`<group>/<metric>` of all scores."""
    keys: Iterable[str] = (key for record in validation for key in record)
    return list(dict.fromkeys(key for key in keys if "/" in key and not key.startswith("codebook/")))


def duration(seconds: float) -> str:
    """In hours, minutes and seconds, without the smallest of three."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def number(value: Any) -> float:
    """NaN for what is not a number."""
    return float(value) if isinstance(value, int | float) else float("nan")


def shown(value: float) -> str:
    """Three digits."""
    return f"{value:#.3g}".rstrip(".").replace("-", _MINUS) if np.isfinite(value) else _UNKNOWN
