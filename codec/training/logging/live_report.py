"""The page of a run while it goes: written anew when it was validated, and for the last time at the end."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codec.evaluation.report.page import write_report

__all__ = ["LiveReport"]

_LOGGER = logging.getLogger(__name__)


class LiveReport:
    """A sink of a `RunLogger`, whose files the page is made from. A disk that is full costs the page, not the run.

    Args:
        pause: Seconds from one page to the next at least. A page takes a second or two, and nobody sees more of them:
            in a browser it looks for a newer one every 15 s.
    """

    def __init__(self, pause: float = 10.0) -> None:
        self._pause, self._written = pause, -math.inf

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder = folder

    def rewind(self, step: int) -> None: ...

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        if split == "validation" and time.monotonic() - self._written >= self._pause:
            self._write(running=True)
            self._written = time.monotonic()

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None: ...

    def close(self) -> None:
        if (self._folder / "metrics.jsonl").exists():  # nothing is to be seen of a run that could not begin
            self._write(running=False)

    def _write(self, running: bool) -> None:
        try:
            write_report(self._folder, running)
        except OSError as error:
            _LOGGER.warning(f"report.html could not be written: {error}")
