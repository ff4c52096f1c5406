"""Files by name: the one search for audio below a folder, and names that can be printed.

A name is bytes, which Python holds as text with surrogate escapes. So `caf\\xe9.wav` in Latin-1 is found, opened and
printed like any other name.
"""

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from errno import EINVAL
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "AUDIO_SUFFIXES",
    "UNSUPPORTED_SUFFIXES",
    "FoundFiles",
    "Skipped",
    "conversion",
    "describe_skipped",
    "error_text",
    "find_audio",
    "find_files",
    "readable",
]

# What libsndfile decodes. Left out are suffixes that other data shares, such as .mat, and .raw, which has no header. A
# file that is given by name may have any suffix.
AUDIO_SUFFIXES = frozenset({
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mp1", ".mpga",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc", ".avr", ".paf", ".fap", ".sf", ".ircam",
    ".pvf", ".svx", ".8svx", ".sd2", ".sds", ".xi",
})  # fmt: skip
# Audio that libsndfile does not decode, and videos. It is listed as skipped, so that nobody misses it without a note.
UNSUPPORTED_SUFFIXES = frozenset({
    ".m4a", ".m4b", ".mp4", ".aac", ".alac", ".wma", ".webm", ".weba", ".mka", ".3gp", ".amr", ".spx", ".wv", ".ape",
    ".tta", ".tak", ".mpc", ".ac3", ".eac3", ".dts", ".dsf", ".dff", ".shn", ".ra", ".rm", ".mkv", ".mov", ".m4v",
    ".avi", ".wmv", ".flv", ".ogv",
})  # fmt: skip
# Trash, thumbnails and resource forks, beside the hidden folders.
_SYSTEM_FOLDERS = frozenset({"$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", "@eaDir"})
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_MAX_LISTED = 10


class Skipped(NamedTuple):
    """A file or folder that is not used."""

    path: Path
    reason: str  # one sentence without the name


class FoundFiles(NamedTuple):
    """The result of a search."""

    files: list[Path]
    skipped: list[Skipped]


def find_audio(roots: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> FoundFiles:
    """Finds the audio files below folders: `find_files` for `AUDIO_SUFFIXES`.

    Audio that libsndfile does not decode, such as .m4a, is among the skipped files.

    Raises:
        OSError: As in `find_files`.
    """
    return find_files(roots, AUDIO_SUFFIXES, UNSUPPORTED_SUFFIXES)


def find_files(
    roots: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    suffixes: frozenset[str],
    unsupported: frozenset[str] = frozenset(),
) -> FoundFiles:
    """Finds the plain files below folders that have one of the suffixes, in upper or lower case.

    Linked folders are followed, and every folder is entered once, so loops end. If a folder can be reached by its own
    name and by a link, it is reached by its own name. Links to files are files. Hidden files and folders are passed
    over; with them the resource forks `._NAME` and the trash. Pipes, sockets, devices, broken links and folders that
    cannot be read are skipped.

    Args:
        roots: Folders; or files, which are taken whatever their suffix.
        suffixes: In lower case, with the dot.
        unsupported: Suffixes of files to list as skipped.

    Returns:
        Files and skipped files. Each path starts with its root. They are sorted by path below each root.

    Raises:
        OSError: A root does not exist, or is neither a file nor a folder.
    """
    found = FoundFiles([], [])
    entered: set[tuple[int, int]] = set()
    for root in [roots] if isinstance(roots, str | os.PathLike) else roots:
        path = Path(root)
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            found.files.append(path)
            continue
        if not stat.S_ISDIR(mode):
            raise OSError(EINVAL, f"expected a file or a folder, it is {_kind(mode)}", str(path))
        below = FoundFiles([], [])
        for name, reason in _walk(os.fspath(path), entered, below.skipped):
            suffix = os.path.splitext(name)[1].lower()
            if reason is not None and suffix in suffixes | unsupported:
                below.skipped.append(Skipped(Path(name), reason))
            elif suffix in suffixes:
                below.files.append(Path(name))
            elif suffix in unsupported:
                below.skipped.append(Skipped(Path(name), conversion(suffix)))
        found.files.extend(sorted(below.files, key=str))
        found.skipped.extend(sorted(below.skipped, key=lambda skipped: str(skipped.path)))
    found.files[:] = dict.fromkeys(found.files)
    return found


def _walk(root: str, entered: set[tuple[int, int]], skipped: list[Skipped]) -> Iterator[tuple[str, str | None]]:
    """Path of every file below `root`, with the reason if it cannot be used. Enters links after all real folders."""
    folders, links = [root], deque[str]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(Skipped(Path(folder), f"the folder cannot be read ({error.strerror})"))
            continue
        subfolders: list[str] = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
                continue
            mode = _mode(entry)
            if isinstance(mode, str) or not stat.S_ISDIR(mode):
                yield entry.path, _why_unusable(mode)
            else:
                (links if entry.is_symlink() else subfolders).append(entry.path)
        folders.extend(reversed(subfolders))


def _mode(entry: "os.DirEntry[str]") -> int | str:
    """What the entry is, after links; or why that is unknown."""
    try:
        return entry.stat().st_mode
    except OSError as error:
        return f"a broken link ({error.strerror})" if entry.is_symlink() else f"cannot be read ({error.strerror})"


def _why_unusable(mode: int | str) -> str | None:
    if isinstance(mode, str):
        return mode
    return None if stat.S_ISREG(mode) else f"expected a file, it is {_kind(mode)}"


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def conversion(suffix: str) -> str:
    """What to do with a file of a format that libsndfile does not decode; one sentence without its name."""
    return f"libsndfile cannot decode {suffix}: convert it, for example with ffmpeg -i in{suffix} out.flac"


def describe_skipped(skipped: Iterable[tuple[str | os.PathLike[str], str]]) -> list[str]:
    """A short list for the user: one line for each reason, with the first file and the number of others.

    Args:
        skipped: Path and reason of each file.
    """
    by_reason: dict[str, list[str]] = {}
    for path, reason in skipped:
        by_reason.setdefault(reason, []).append(readable(path))
    lines = []
    for reason, names in by_reason.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{others}: {reason}")
    hidden = sum(len(names) for names in list(by_reason.values())[_MAX_LISTED:])
    return [*lines[:_MAX_LISTED], *([f"and {hidden} more files, for other reasons"] if hidden else [])]


def readable(path: str | bytes | os.PathLike[str]) -> str:
    """A name in one printable line, for messages and lists.

    Bytes that are not UTF-8, control characters, line ends (also U+2028) and marks that change the direction of text
    are escaped as in Python: `\\xe9`, `\\n`, `\\u2028`.
    """
    return "".join(character if character.isprintable() else _escape(character) for character in os.fsdecode(path))


def error_text(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, FileExistsError) and error.filename is not None:  # where a folder is to be made
        return f"{readable(error.filename)} is a file: expected a folder"
    # The text of an OSError has a number and a quoted path in it, which users do not need.
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{readable(error.filename)}: {error.strerror}"
    return readable(" ".join(str(error).split()))


def _escape(character: str) -> str:
    code = ord(character)
    is_byte = 0xDC80 <= code <= 0xDCFF  # how Python holds a byte that is not UTF-8
    return f"\\x{code - 0xDC00:02x}" if is_byte else repr(character)[1:-1]
