"""Manifests: the files of a corpus, one line each, and the files that were skipped with the reason."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from sys import intern

from codec.atomic_file import atomic_write
from codec.audio import AUDIO_SUFFIXES, AudioFileError, AudioHeader, read_header

__all__ = ["DataError", "Entry", "Manifest", "scan_folder"]

# Formats that libsndfile cannot read. They are listed as skipped, so that nobody misses their audio without a note.
_UNREADABLE_SUFFIXES = frozenset({".m4a", ".aac", ".mp4", ".wma", ".ape", ".wv"})
_MAX_SAMPLE_RATE = 384_000  # Hz; a header with a higher rate is corrupt


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

    @property
    def seconds(self) -> float:
        """Duration in s."""
        return self.frames / self.sample_rate


@dataclass(frozen=True)
class Manifest:
    """Files of a corpus, sorted by path: takes of a speaker and words of a language stay neighbours.

    Attributes:
        root: Folder that the paths are relative to.
        entries: The usable files.
        skipped_files: Path and reason of each file that is not used.
    """

    root: Path
    entries: list[Entry]
    skipped_files: list[tuple[str, str]] = field(default_factory=list)

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
        return Manifest(self.root, [entry for entry in self.entries if keep(entry)], self.skipped_files)

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
        prefix = os.path.relpath(self.root, target.parent)
        with atomic_write(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for entry in self.entries:
                line = asdict(entry) | {"path": os.path.normpath(os.path.join(prefix, entry.path))}
                file.write(json.dumps(line) + "\n")
            for name, reason in self.skipped_files:
                line = {"path": os.path.normpath(os.path.join(prefix, name)), "skipped": reason}
                file.write(json.dumps(line) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Reads what `save` wrote; a line needs no more than `path`, `sample_rate`, `channels` and `frames`.

        Raises:
            DataError: The file is missing, has a line that is no entry, or lists no usable file.
        """
        source = Path(path)
        manifest = cls(source.parent, [])
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a readable manifest ({type(error).__name__})") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                manifest._add_line(line, f"{path}, line {number}")
        if not manifest.entries:
            raise DataError(f"{path}: the manifest lists no usable file")
        manifest.entries.sort(key=lambda entry: entry.path)
        return manifest

    def _add_line(self, line: str, where: str) -> None:
        try:
            fields = json.loads(line)
            if "skipped" in fields:
                self.skipped_files.append((fields["path"], fields["skipped"]))
                return
            for name in ("source", "package", "licence"):  # few values, shared by all entries
                if name in fields:
                    fields[name] = intern(fields[name])
            entry = Entry(**({"bytes": 0} | fields))
            plausible = min(entry.sample_rate, entry.channels, entry.frames) > 0 and isinstance(entry.path, str)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: not a manifest entry ({error})") from error
        if not plausible:
            raise DataError(f"{where}: sample_rate, channels and frames must be positive")
        self.entries.append(entry)


def scan_folder(
    root: str | os.PathLike[str],
    minimum_seconds: float = 0.1,
    minimum_sample_rate: int = 8000,
    source_of: Callable[[str], str] = lambda path: "audio",
    threads: int = 8,
) -> Manifest:
    """Reads the header of every audio file below a folder.

    Args:
        root: Folder, searched recursively. Hidden files and folders are ignored.
        minimum_seconds: Shorter files are skipped.
        minimum_sample_rate: In Hz; files with a lower rate are skipped.
        source_of: Relative path -> name of the source.
        threads: Number of headers read at once.

    Raises:
        DataError: There is no such folder, or no usable audio in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of audio, there is no such folder")
    names = sorted(_files(root))
    suffixes = AUDIO_SUFFIXES | _UNREADABLE_SUFFIXES
    audio_names = [name for name in names if os.path.splitext(name)[1].lower() in suffixes]
    manifest = Manifest(root, [])

    def header(name: str) -> AudioHeader | str:
        try:
            found = read_header(root / name)
        except AudioFileError as error:
            return error.reason
        return _reason_to_skip(found, minimum_seconds, minimum_sample_rate) or found

    with ThreadPoolExecutor(threads) as pool:
        for name, found in zip(audio_names, pool.map(header, audio_names), strict=True):
            if isinstance(found, str):
                manifest.skipped_files.append((name, found))
            else:
                size = os.path.getsize(root / name)
                manifest.entries.append(Entry(name, *found, bytes=size, source=intern(source_of(name))))
    if not manifest.entries:
        raise DataError(f"{root}: {_why_empty(len(names), manifest.skipped_files)}")
    return manifest


def _files(root: Path) -> Iterator[str]:
    """Paths below `root`, relative to it. Links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def _reason_to_skip(header: AudioHeader, minimum_seconds: float, minimum_sample_rate: int) -> str | None:
    if header.sample_rate < minimum_sample_rate:
        return f"sample rate {header.sample_rate} Hz is below {minimum_sample_rate} Hz"
    if header.sample_rate > _MAX_SAMPLE_RATE:
        return f"sample rate {header.sample_rate} Hz is above {_MAX_SAMPLE_RATE} Hz"
    if header.frames < minimum_seconds * header.sample_rate or header.frames == 0:
        return f"{header.frames} frames, {header.frames / header.sample_rate:.3f} s, is below {minimum_seconds:g} s"
    return None


def _why_empty(files: int, skipped_files: list[tuple[str, str]]) -> str:
    if not files:
        return "the folder is empty"
    if not skipped_files:
        return f"no audio among its {files} files (wav, flac, ogg, opus, mp3, aiff ...)"
    path, reason = skipped_files[0]
    return f"none of its {len(skipped_files)} audio files can be used, for example {path}: {reason}"
