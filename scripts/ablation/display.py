"""The progress of an ablation, read from the run folders, so that it works with every Hydra launcher."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from codec.training import TrainingConfig
from codec.training.logging.progress_bar import clock

__all__ = ["GridDisplay"]

_TAIL_BYTES = 1 << 15  # enough for several lines of metrics.jsonl
_INTERVAL_SECONDS = 1.0


class _Progress(NamedTuple):
    """State of a started, unfinished run."""

    step: int
    fraction: float  # of the budget
    changed_at: float  # Unix time


class GridDisplay:
    """Progress bars on a terminal; elsewhere one line per finished run.

    Args:
        folder: Holds the run folders.
        names: All runs of the ablation.
        budget: Of one run.
        stream: Where to print; standard output if None. Anything but a terminal gets no control codes.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], budget: TrainingConfig, stream: TextIO | None = None
    ) -> None:
        self._folder, self._names, self._budget = folder, list(names), budget
        self._stream = stream or sys.stdout
        # rich treats FORCE_COLOR, which many build servers set, as a terminal.
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        # No redirection: the timer's signal may interrupt a write, and must not write to the same stream then.
        self._live: Live | None = None
        if terminal:
            console = Console(file=self._stream)
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._finished = {name for name in self._names if self._is_finished(name)}
        self._started, self._started_at = time.monotonic(), time.time()
        self._work_before = self._work(self._running())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Refreshes every second until the block ends.

        A timer signal calls `refresh`. A thread would not be safe here: data loaders fork, and a lock that the thread
        holds at that moment would stay locked in the child.
        """

        def on_timer(*_: Any) -> None:
            self.refresh()
            signal.setitimer(signal.ITIMER_REAL, _INTERVAL_SECONDS)

        previous = signal.signal(signal.SIGALRM, on_timer)
        if self._live is not None:
            self._live.start()
        try:
            on_timer()
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            self.refresh()
            if self._live is not None:
                self._live.stop()

    def refresh(self) -> None:
        """Reads the run folders and prints what has changed."""
        new = [name for name in self._names if name not in self._finished and self._is_finished(name)]
        self._finished.update(new)
        running = self._running()
        if self._live is not None:
            self._live.update(self._render(running), refresh=True)
        elif new:
            print("\n".join([*map(self._outcome, new), "  ".join(self._facts(running))]), file=self._stream, flush=True)

    def seconds_left(self) -> float | None:
        """Estimated time until all runs are finished; None before the first progress."""
        return self._seconds_left(self._work(self._running()))

    def _seconds_left(self, work: float) -> float | None:
        # Speed since this command was started; it includes runs that train at the same time.
        speed = (work - self._work_before) / max(time.monotonic() - self._started, 1e-9)
        return (len(self._names) - work) / speed if speed > 0 else None

    def _work(self, running: Mapping[str, _Progress]) -> float:
        """Finished runs, plus the fractions of the unfinished ones."""
        return len(self._finished) + sum(progress.fraction for progress in running.values())

    def _facts(self, running: Mapping[str, _Progress]) -> list[str]:
        left = self._seconds_left(self._work(running))
        unfinished = len(self._finished) < len(self._names)
        count = f"{len(self._finished)}/{len(self._names)} runs"
        return [count, f"{clock(left)} left"] if left is not None and unfinished else [count]

    def _outcome(self, name: str) -> str:
        result = json.loads((self._folder / name / "result.json").read_text(encoding="utf-8"))
        if result["failure"]:
            return f"{name}  failed: {result['failure']}"
        return f"{name}  {result['steps']} steps in {clock(result['seconds'])}"

    def _is_finished(self, name: str) -> bool:
        return (self._folder / name / "result.json").exists()

    def _running(self) -> dict[str, _Progress]:
        found = {name: self._progress(name) for name in self._names if name not in self._finished}
        return {name: progress for name, progress in found.items() if progress is not None}

    def _progress(self, name: str) -> _Progress | None:
        """From the last line of metrics.jsonl."""
        try:
            with open(self._folder / name / "metrics.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                record = json.loads(file.read().rstrip(b"\n").rpartition(b"\n")[2])
                changed_at = os.fstat(file.fileno()).st_mtime
            fraction = self._budget.progress(record["step"], record["seconds"])
        except (OSError, ValueError, KeyError, TypeError):  # no file yet, or an incomplete last line
            return None
        return _Progress(record["step"], min(1.0, fraction), changed_at)

    def _render(self, running: Mapping[str, _Progress]) -> Group:
        rows = Table.grid(padding=(0, 2))
        rows.add_row(_bar(self._work(running) / len(self._names)), *map(Text, self._facts(running)))
        for name, progress in running.items():
            if progress.changed_at >= self._started_at:
                activity = f"step {progress.step}" if progress.fraction < 1 else "scoring"
                rows.add_row(_bar(progress.fraction), Text(name, style="dim"), Text(activity, style="dim"))
        return Group(rows)


def _bar(fraction: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=fraction, width=30)
