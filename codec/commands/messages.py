"""Errors, notes and tables on the terminal."""

import sys
from collections.abc import Iterable
from pathlib import Path

from codec.audio import error_text, readable

__all__ = ["check_absent", "missing", "print_error", "print_notes", "print_table"]


def check_absent(path: Path) -> None:
    """Checks that a command without -f replaces no file.

    Raises:
        ValueError: There is a file or folder of this name.
    """
    if path.exists():
        raise ValueError(f"{readable(path)} exists: name another file, or move it away")


def missing(path: Path) -> str:
    """The sentence that there is no such file; a broken link and a loop of links are named."""
    return f"{readable(path)} is a link to no file" if path.is_symlink() else f"there is no file {readable(path)}"


def print_error(error: Exception) -> None:
    """Prints an error as one line on stderr."""
    print("codec:", error_text(error), file=sys.stderr)


def print_notes(name: str | Path, notes: Iterable[str]) -> None:
    """Prints what may surprise about one file, one line on stderr for each sentence."""
    for note in notes:
        print(f"note: {readable(name)}: {' '.join(note.split())}", file=sys.stderr)


def print_table(rows: dict[str, str]) -> None:
    """Prints names and values in two columns."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
