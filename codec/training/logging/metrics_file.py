"""metrics.jsonl: one JSON object per line, complete lines only, even after a kill."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from codec.atomic_file import atomic_write

__all__ = ["MetricsFile"]


class MetricsFile:
    """Appends records to a file of JSON lines and removes records after a step. Nothing is created before `append`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line. `record` holds an integer `step` and no NaN or infinity."""
        if self._file is None:
            self._remove_partial_lines()
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def truncate_after(self, step: float) -> int:
        """Removes the records of later steps and all lines that are not records; returns their number."""
        self.close()
        if not self.path.exists():
            return 0
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _is_record(line, step)]
        with atomic_write(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        return len(lines) - len(kept)

    def close(self) -> None:
        """Closes the file. A later `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _remove_partial_lines(self) -> None:
        """A line that is appended to an incomplete line would be lost as well."""
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self.truncate_after(math.inf)


def _is_record(line: str, last_step: float) -> bool:
    """Whether a line is a complete record, of `last_step` or earlier."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False
    return isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= last_step
