"""Records of a run's log: reading metrics.jsonl, and values as text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Record", "format_duration", "format_number", "keys_with_prefix", "read_metrics", "to_float"]

Record = Mapping[str, Any]

UNKNOWN, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def read_metrics(path: Path) -> tuple[list[Record], list[str]]:
    """Reads a metrics.jsonl, whose last line may be incomplete while a run writes it or after it was killed.

    Returns:
        The records that have a split and a step, and notes for the user about what is missing.
    """
    if not path.exists():
        return [], ["There are no metrics yet."]
    records, incomplete = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            complete = isinstance(record["split"], str) and isinstance(record["step"], int)
        except (json.JSONDecodeError, KeyError, TypeError):
            complete = False
        if complete:
            records.append(record)
        else:
            incomplete += 1
    if incomplete:
        return records, [f"{incomplete} incomplete lines of metrics.jsonl were skipped."]
    return records, [] if records else ["There are no metrics yet."]


def keys_with_prefix(records: Sequence[Record], prefix: str) -> list[str]:
    """Keys that start with `prefix` in any record, in order of their first occurrence."""
    return list(dict.fromkeys(key for record in records for key in record if key.startswith(prefix)))


def to_float(value: Any) -> float:
    """NaN for anything but a number."""
    return float(value) if isinstance(value, int | float) else float("nan")


def format_number(value: float) -> str:
    """Three significant digits; a dash for NaN and infinity."""
    return f"{value:#.3g}".rstrip(".").replace("-", MINUS) if np.isfinite(value) else UNKNOWN


def format_duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
