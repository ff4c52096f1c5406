"""One line of a manifest: what is known of an audio file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from sys import intern
from typing import Any

from codec.audio import ManifestLine

__all__ = ["DataError", "Entry", "SkippedEntry", "format_line", "parse_line"]

_MAX_NUMBER = 2**48  # more frames than any file has; sums of them still fit into 64 bits


class DataError(ValueError):
    """A corpus, a manifest or a setting of the data cannot be used; one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file."""

    path: str  # relative to the manifest's root
    sample_rate: int  # Hz
    channels: int
    frames: int  # samples per channel
    bytes: int
    source: str = "audio"  # group that is weighted and reported together: speech, music ...
    package: str = ""  # where the file was taken from
    licence: str = ""
    further: Mapping[str, Any] | None = None  # other keys of its line (text, speaker ...), kept as they are

    @property
    def seconds(self) -> float:
        """Duration in s."""
        return self.frames / self.sample_rate

    @property
    def is_complete(self) -> bool:
        """False if its line lacks a number, which is then read from the file."""
        return min(self.sample_rate, self.channels, self.frames) > 0


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """One file that is not used."""

    path: str
    reason: str
    further: Mapping[str, Any] | None = None


_NUMBERS = {"sample_rate": 1, "channels": 1, "frames": 1, "bytes": 0}  # smallest value
_TEXTS = ("source", "package", "licence")


def format_line(entry: Entry | SkippedEntry, path: str) -> str:
    """The line of a file, in ASCII: a byte of its name that is not UTF-8 becomes a lone surrogate such as \\udce9.

    Args:
        path: Replaces that of the entry.
    """
    line: dict[str, Any] = {"path": path}
    if isinstance(entry, SkippedEntry):
        line["skipped"] = entry.reason
    else:
        line |= {field.name: getattr(entry, field.name) for field in fields(Entry) if field.name != "further"}
        line["path"] = path
    return json.dumps(line | {key: value for key, value in (entry.further or {}).items() if key not in line})


def parse_line(line: ManifestLine) -> Entry | SkippedEntry:
    """Inverse of `format_line`, which also takes the lines of other programs.

    Further keys are kept. A whole number may be written as 24000.0. Without a sample rate, channels or frames, the
    entry is not complete.

    Raises:
        DataError: A value is wrong. The message has the file, the line and the key.
    """
    further = dict(line.further)
    if line.skipped is not None:
        return SkippedEntry(line.path, line.skipped, further or None)
    try:
        known: dict[str, Any] = {name: _take_number(further, name, least) for name, least in _NUMBERS.items()}
        known |= {name: value for name in _TEXTS if (value := _take_text(further, name)) is not None}
    except DataError as error:
        raise DataError(f"{line.where}: {error}") from error
    return Entry(line.path, **known, further=further or None)


def _take_number(line: dict[str, Any], name: str, least: int) -> int:
    """0 if there is none."""
    value = line.pop(name, None)
    if value is None:
        return 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= _MAX_NUMBER or value != int(value):
        raise DataError(f"{name}: expected a whole number of at least {least}, got {_shown(value)}")
    return int(value)


def _take_text(line: dict[str, Any], name: str) -> str | None:
    value = line.pop(name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a source such as 2020
    if value is not None and not isinstance(value, str):
        raise DataError(f"{name}: expected text, got {_shown(value)}")
    return None if value is None else intern(value)  # few values, shared by all entries


def _shown(value: Any) -> str:
    return repr(value)[:40]
