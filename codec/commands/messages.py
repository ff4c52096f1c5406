"""Errors, notes and tables on the terminal."""

import sys
from collections.abc import Iterable
from pathlib import Path

from codec.audio import readable

__all__ = ["print_error", "print_notes", "print_table"]


def print_error(error: Exception) -> None:
    """Prints an error as one line on stderr."""
    # The text of an OSError has a number and a quoted path in it, which users do not need.
    is_about_file = isinstance(error, OSError) and error.filename is not None and error.strerror is not None
    text = f"{readable(error.filename)}: {error.strerror}" if is_about_file else str(error)  # type: ignore[attr-defined]
    print("codec:", " ".join(text.split()), file=sys.stderr)


def print_notes(name: str | Path, notes: Iterable[str]) -> None:
    """Prints what may surprise about one file, one line on stderr for each sentence."""
    for note in notes:
        print(f"note: {readable(name)}: {' '.join(note.split())}", file=sys.stderr)


def print_table(rows: dict[str, str]) -> None:
    """Prints names and values in two columns."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
