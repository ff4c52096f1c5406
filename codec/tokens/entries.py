"""The files to tokenize, in a fixed order: those of a folder, or the lines of a manifest."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from codec.audio import ManifestError, ManifestLine, Skipped, find_audio, read_manifest, readable
from codec.tokens.card import RESERVED, TokensError

__all__ = ["Entry", "EntryList", "folder_entries", "manifest_entries"]

_RENAMED = "input_"
_TYPES = {bool: "bool", int: "int64", float: "double", str: "string"}
_INT64 = range(-(2**63), 2**63)


class Entry(NamedTuple):
    """One file to tokenize."""

    number: int  # in the list, from 0
    name: str  # relative to the folder, or as the manifest has it
    path: Path  # to open
    columns: dict[str, Any]  # from the manifest, without the path


@dataclass(frozen=True)
class EntryList:
    """A list that can be iterated any number of times and is not held in memory.

    Attributes:
        count: Number of entries.
        digest: 16 hexadecimal digits that change with any entry; the size of a file in a folder is included.
        columns: Type of each column of the manifest, by name: `string`, `int64`, `double`, `bool`, or `json` for lists,
            objects and columns of several types.
        skipped: What was found but is not an entry, with paths relative to the folder.
    """

    count: int
    digest: str
    columns: dict[str, str]
    skipped: list[Skipped]
    iterate: Callable[[], Iterator[Entry]]

    def __iter__(self) -> Iterator[Entry]:
        return self.iterate()


def folder_entries(folder: Path) -> EntryList:
    """All audio files below a folder, in the order of `codec.audio.find_audio`. Their paths are held in memory.

    Raises:
        TokensError: The folder has no audio.
    """
    files, skipped = find_audio([folder])
    if not files:
        raise TokensError(f"{readable(folder)}: expected a folder with audio files, found none")

    def iterate() -> Iterator[Entry]:
        for number, path in enumerate(files):
            yield Entry(number, os.path.relpath(path, folder), path, {})

    def identities() -> Iterator[bytes]:
        for entry in iterate():
            yield b"%s\0%d\n" % (os.fsencode(entry.name), _size(entry.path))

    listed = [Skipped(Path(os.path.relpath(path, folder)), reason) for path, reason in skipped]
    return EntryList(len(files), _digest(identities()), {}, listed, iterate)


def manifest_entries(manifest: Path) -> EntryList:
    """The lines of a manifest, see `codec.audio.read_manifest`.

    A path is relative to the folder of the manifest. Lines with the key `skipped` are passed over, as in the manifests
    of `data`. The whole manifest is checked at once, line by line in bounded memory.

    Raises:
        TokensError: A line is invalid, or no line has a file; the message names file, line and key.
        OSError: The manifest cannot be read.
    """
    if manifest.exists() and not manifest.is_file():
        raise TokensError(f"{readable(manifest)}: expected a file or a folder, because a manifest is read twice")

    def iterate() -> Iterator[Entry]:
        for number, line in enumerate(_used_lines(manifest)):
            columns = {_column(key): value for key, value in line.further.items()}
            yield Entry(number, line.path, manifest.parent / line.path, columns)

    columns: dict[str, str] = {}
    count = 0

    def identities() -> Iterator[bytes]:
        nonlocal count
        for line in _used_lines(manifest):
            count += 1
            _add_columns(columns, line)
            yield json.dumps([line.path, line.further]).encode() + b"\n"

    digest = _digest(identities())
    if not count:
        raise TokensError(f"{readable(manifest)}: expected a manifest with one JSON object per line, found no file")
    return EntryList(count, digest, dict(sorted(columns.items())), [], iterate)


def _used_lines(manifest: Path) -> Iterator[ManifestLine]:
    try:
        yield from (line for line in read_manifest(manifest) if line.skipped is None)
    except ManifestError as error:
        raise TokensError(str(error)) from error


def _column(key: str) -> str:
    """Name of a manifest's column in the output, where some names have a meaning of their own."""
    return _RENAMED + key if key in RESERVED else key


def _add_columns(columns: dict[str, str], line: ManifestLine) -> None:
    for key, value in line.further.items():
        name = _column(key)
        if name != key and name in line.further:
            raise TokensError(f"{line.where}: rename {name} or {key}, because {key} becomes {name} in the output")
        found = None if value is None else _type(value)
        known = columns.get(name)
        if known is None or known == "null":
            columns[name] = found or "null"
        elif found is not None and found != known:
            columns[name] = "double" if {found, known} == {"int64", "double"} else "json"


def _type(value: Any) -> str:
    if isinstance(value, int) and value not in _INT64:
        return "json"
    return _TYPES.get(type(value), "json")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
