"""The record of a process that is not the first of its run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

__all__ = ["SilentLogger"]


class SilentLogger:
    """A `RunLogger` that keeps nothing but the files that only its own process has met; the first one tells the rest.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._set_aside: set[str] = set()

    def metrics(self, split: str, step: int, seconds: float, values: Mapping[str, float | Tensor]) -> None: ...

    def progress(self, step: int, seconds: float) -> None: ...

    def message(self, text: str) -> None: ...

    def skip_file(self, path: str, reason: str) -> None:
        """Lists a file that is not trained on in skipped_files.txt, once."""
        entry = " ".join(f"{path}\t{reason}".splitlines())
        if entry not in self._set_aside:
            self._set_aside.add(entry)
            with open(self.folder / "skipped_files.txt", "a", encoding="utf-8", errors="replace") as file:
                file.write(entry + "\n")

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None: ...

    def truncate_after(self, step: int) -> int:
        return 0

    def close(self) -> None: ...
