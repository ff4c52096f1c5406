"""skipped_files.txt: the files that are not trained on, with the reason."""

from pathlib import Path

from codec.audio import readable

__all__ = ["SkippedFiles", "printable"]


class SkippedFiles:
    """A list of files, one `path<TAB>reason` per line. Several processes may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = set(path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else [])

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, path: str, reason: str) -> str | None:
        """Appends a file; returns its line, or None if the line is already in the list."""
        line = f"{readable(path)}\t{readable(reason)}"
        if line in self._lines:
            return None
        self._lines.add(line)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line


def printable(text: str) -> str:
    """A text with line ends in which everything else that cannot be printed is escaped, as by `readable`."""
    return "\n".join(map(readable, text.split("\n")))
