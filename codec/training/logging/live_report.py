"""report.html, updated during training."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codec.evaluation.report.index import write_index
from codec.evaluation.report.page import write_report

__all__ = ["LiveReport"]

_LOGGER = logging.getLogger(__name__)


class LiveReport:
    """A sink that writes report.html, and index.html beside the run's folder, from the files of the runs.

    It writes them after each validation, every few minutes in between, and at the end. A failed write is logged, and
    training continues.

    Args:
        min_interval_seconds: Shortest time between two updates. Writing the page takes a second or two, and an open
            browser tab checks for a new version only every 15 s.
        max_interval_seconds: Time after which a training record causes an update, so that the page shows that the run
            is alive.
    """

    def __init__(self, min_interval_seconds: float = 10.0, max_interval_seconds: float = 300.0) -> None:
        self._min_interval_seconds = min_interval_seconds
        self._max_interval_seconds = max_interval_seconds
        self._written_at = -math.inf
        self._folder: Path | None = None  # known once the log is opened

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder = folder

    def rewind(self, step: int) -> None:
        """Does nothing: the next update reads the truncated files."""

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        interval = self._min_interval_seconds if split == "validation" else self._max_interval_seconds
        if self._folder is not None and time.monotonic() - self._written_at >= interval:
            self._write(self._folder, running=True)
            self._written_at = time.monotonic()

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        """Does nothing: the report reads the files in samples/."""

    def close(self) -> None:
        # A run that failed to start has nothing to report.
        if self._folder is not None and (self._folder / "metrics.jsonl").exists():
            self._write(self._folder, running=False)

    @staticmethod
    def _write(folder: Path, running: bool) -> None:
        try:
            write_report(folder, running)
            write_index(folder.parent)
        except OSError as error:
            _LOGGER.warning(f"report.html could not be written: {error.strerror or error}")
