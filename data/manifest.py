"""Manifests: the files of a corpus, one line each, and the files that were skipped with the reason."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codec.atomic_file import atomic_write
from codec.audio import ManifestError, read_manifest, readable
from data.entries import DataError, Entry, SkippedEntry, format_line, parse_line
from data.headers import read_headers

__all__ = ["Manifest"]


@dataclass(frozen=True)
class Manifest:
    """Files of a corpus, sorted by path: takes of a speaker and words of a language stay neighbours.

    Attributes:
        root: Folder that the paths are relative to.
        entries: The usable files.
        skipped_files: Path and reason of each file that is not used.
        skipped_further: Further keys in the line of a skipped file, by path.
    """

    root: Path
    entries: list[Entry]
    skipped_files: list[tuple[str, str]] = field(default_factory=list)
    skipped_further: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration of all files in s."""
        return sum(entry.seconds for entry in self.entries)

    @property
    def sources(self) -> dict[str, float]:
        """Duration of each source in s, by name."""
        seconds: dict[str, float] = {}
        for entry in self.entries:
            seconds[entry.source] = seconds.get(entry.source, 0.0) + entry.seconds
        return dict(sorted(seconds.items()))

    def path(self, entry: Entry) -> str:
        """Path of a file, not relative to the root."""
        return os.path.join(self.root, entry.path)

    def where(self, keep: Callable[[Entry], bool]) -> "Manifest":
        """The entries for which `keep` is true, and all skipped files."""
        return replace(self, entries=[entry for entry in self.entries if keep(entry)])

    def of_source(self, source: str) -> "Manifest":
        """The entries of one source, and all skipped files."""
        return self.where(lambda entry: entry.source == source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON lines, with paths relative to the file's folder. The write is atomic.

        Raises:
            OSError: The file cannot be written.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = os.path.relpath(os.path.realpath(self.root), os.path.realpath(target.parent))
        lines: list[Entry | SkippedEntry] = list(self.entries)
        lines += [SkippedEntry(name, reason, self.skipped_further.get(name)) for name, reason in self.skipped_files]
        with atomic_write(target) as temporary, open(temporary, "w", encoding="ascii") as file:
            for entry in lines:
                file.write(format_line(entry, os.path.normpath(os.path.join(prefix, entry.path))) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Reads what `save` wrote, or the JSON lines of another program.

        A line needs no more than `path`. If it lacks `sample_rate`, `channels` or `frames`, all three are read from the
        file. See `codec.audio.read_manifest` for what a line may be.

        Raises:
            DataError: The file is missing, has a line that is no entry, or lists no usable file.
        """
        manifest = cls(Path(path).parent, [])
        try:
            for line in read_manifest(path):
                entry = parse_line(line)
                if isinstance(entry, Entry):
                    manifest.entries.append(entry)
                else:
                    manifest._skip(entry.path, entry.reason, entry.further)
        except ManifestError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(f"{readable(path)}: not a readable manifest ({error.strerror})") from error
        manifest._complete()
        if not manifest.entries:
            raise DataError(f"{readable(path)}: the manifest lists no usable file{manifest._first_reason()}")
        manifest.entries.sort(key=lambda entry: entry.path)
        return manifest

    def _complete(self) -> None:
        """Reads the numbers that lines lack from the files."""
        incomplete = [entry for entry in self.entries if not entry.is_complete]
        if not incomplete:
            return
        self.entries[:] = [entry for entry in self.entries if entry.is_complete]
        for entry, header in zip(incomplete, read_headers(map(self.path, incomplete)), strict=True):
            if isinstance(header, str):
                self._skip(entry.path, header, entry.further)
            else:
                self.entries.append(replace(entry, **header._asdict()))

    def _skip(self, path: str, reason: str, further: Mapping[str, Any] | None) -> None:
        self.skipped_files.append((path, reason))
        if further is not None:
            self.skipped_further[path] = further

    def _first_reason(self) -> str:
        if not self.skipped_files:
            return ""
        path, reason = self.skipped_files[0]
        return f", for example {readable(path)}: {reason}"
