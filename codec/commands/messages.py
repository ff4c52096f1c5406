"""What the commands print."""

import sys

__all__ = ["complain", "print_table"]


def complain(error: Exception) -> None:
    # The system's own errors carry a number and a quoted path.
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    print("codec:", " ".join(text.split()), file=sys.stderr)


def print_table(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
