"""Errors and tables on the terminal."""

import sys

__all__ = ["print_error", "print_table"]


def print_error(error: Exception) -> None:
    """Prints an error as one line on stderr."""
    # The text of an OSError has a number and a quoted path in it, which users do not need.
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    print("codec:", " ".join(text.split()), file=sys.stderr)


def print_table(rows: dict[str, str]) -> None:
    """Prints names and values in two columns."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
