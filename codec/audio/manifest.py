"""Manifests: lists of audio files, one JSON object per line. Training and `codec tokenize` read them here."""

import json
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from codec.audio.files import readable

__all__ = ["ManifestError", "ManifestLine", "read_manifest"]

_PATH_KEYS = ("path", "audio_filepath")  # the second is NeMo's


class ManifestError(ValueError):
    """A line of a manifest cannot be used. The message names file, line and key."""


class ManifestLine(NamedTuple):
    """One file."""

    where: str  # name of the manifest and number of the line, for messages
    path: str  # as the line has it
    skipped: str | None  # why the file is not used; None if it is
    further: dict[str, Any]  # all other keys


def read_manifest(path: str | os.PathLike[str]) -> Iterator[ManifestLine]:
    """The lines of a manifest, one at a time.

    The path may be named `audio_filepath`, as in NeMo. Bytes that are not UTF-8 in a name stand for themselves. A BOM,
    empty lines and the line ends of Windows are accepted.

    Raises:
        ManifestError: A line is no JSON object, has no path, or has a number that is not finite.
        OSError: The file cannot be read.
    """
    # "\n" alone ends a line: a name may contain U+2028.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            where = f"{readable(path)}, line {number}"
            try:
                line = _parse(text, where)
            except (ManifestError, RecursionError) as error:
                raise ManifestError(f"{where}: {error}") from error
            yield line


def _parse(text: str, where: str) -> ManifestLine:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"expected one JSON object, got {readable(text.strip()[:40])}") from error
    if not isinstance(line, dict):
        raise ManifestError(f"expected one JSON object, got {readable(text.strip()[:40])}")
    path = _take_path(line)
    skipped = line.pop("skipped", None)
    if skipped is not None and not isinstance(skipped, str):
        raise ManifestError(f"skipped: expected a reason as text, got {skipped!r:.40}")
    for key, value in line.items():
        if not _is_finite(value):
            raise ManifestError(f"{key}: expected a finite number, got {value!r:.40}")
    return ManifestLine(where, path, skipped, line)


def _is_finite(value: Any) -> bool:
    """False for NaN and infinity, which are no JSON, also within lists and objects."""
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _take_path(line: dict[str, Any]) -> str:
    key = next((key for key in _PATH_KEYS if key in line), None)
    if key is None:
        raise ManifestError("path: this key is missing (audio_filepath is accepted, too)")
    path = line.pop(key)
    try:
        if isinstance(path, str) and path and b"\0" not in os.fsencode(path):
            return path
    except UnicodeEncodeError:
        pass  # a surrogate that stands for no byte
    raise ManifestError(f"{key}: expected the name of a file, got {path!r:.40}")
