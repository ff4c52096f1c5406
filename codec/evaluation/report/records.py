"""Records of a run's log: reading metrics.jsonl, and values as text."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "MINUS",
    "UNKNOWN",
    "Record",
    "format_duration",
    "format_fixed",
    "format_number",
    "keys_with_prefix",
    "read_last_record",
    "read_metrics",
    "to_float",
]

Record = Mapping[str, Any]

UNKNOWN, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_BLOCK_BYTES = 1 << 16


def read_metrics(path: Path) -> tuple[list[Record], list[str]]:
    """Reads a metrics.jsonl, whose last line may be incomplete while a run writes it or after it was killed.

    Returns:
        The records that have a split and a step, and notes for the user about what is missing.
    """
    if not path.exists():
        return [], ["There are no metrics yet."]
    records, incomplete = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        record = _parse(line)
        if record is None:
            incomplete += 1
        else:
            records.append(record)
    if incomplete:
        return records, [f"{incomplete} incomplete lines of metrics.jsonl were skipped."]
    return records, [] if records else ["There are no metrics yet."]


def read_last_record(path: Path, split: str | None = None) -> Record | None:
    """The last complete record of a metrics.jsonl, read from its end; None if there is none or no file.

    Args:
        split: "train" or "validation"; None for either.
    """
    try:
        with open(path, "rb") as file:
            end, rest = file.seek(0, os.SEEK_END), b""
            while end:
                start = max(0, end - _BLOCK_BYTES)
                file.seek(start)
                first, *lines = (file.read(end - start) + rest).split(b"\n")
                end, rest = start, first  # the first line may begin in the block before
                for line in reversed(lines if start else [first, *lines]):
                    record = _parse(line)
                    if record is not None and split in (None, record["split"]):
                        return record
    except OSError:
        return None
    return None


def _parse(line: str | bytes) -> Record | None:
    """None for anything but a record with a split and a step."""
    try:
        record = json.loads(line)
        return record if isinstance(record["split"], str) and isinstance(record["step"], int) else None
    except (ValueError, KeyError, TypeError):  # UnicodeDecodeError is a ValueError
        return None


def keys_with_prefix(records: Sequence[Record], prefix: str) -> list[str]:
    """Keys that start with `prefix` in any record, in order of their first occurrence."""
    return list(dict.fromkeys(key for record in records for key in record if key.startswith(prefix)))


def to_float(value: Any) -> float:
    """NaN for anything but a number."""
    return float(value) if isinstance(value, int | float) else float("nan")


def format_number(value: float) -> str:
    """Three significant digits; a dash for NaN and infinity."""
    return f"{value:#.3g}".rstrip(".").replace("-", MINUS) if np.isfinite(value) else UNKNOWN


def format_fixed(value: float, digits: int, signed: bool = False) -> str:
    """A fixed number of digits after the point; a dash for NaN and infinity."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS) if np.isfinite(value) else UNKNOWN


def format_duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
