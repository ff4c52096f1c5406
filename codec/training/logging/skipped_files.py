"""skipped_files.txt: the files that are not trained on, with the reason."""

from pathlib import Path

__all__ = ["SkippedFiles", "printable"]


class SkippedFiles:
    """A list of files, one `path<TAB>reason` per line. Several processes may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = set(path.read_text(encoding="utf-8").splitlines() if path.exists() else [])

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, path: str, reason: str) -> str | None:
        """Appends a file; returns its line, or None if the line is already in the list."""
        line = printable(" ".join(f"{path}\t{reason}".splitlines()))  # a file name may contain a line break
        if line in self._lines:
            return None
        self._lines.add(line)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line


def printable(text: str) -> str:
    """Escapes control characters and bytes that are not UTF-8, which file names may contain."""
    decodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in decodable)
