"""The progress of a whole grid, read from the folders of its cells, so that it does not matter where they run."""

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

_TAIL_BYTES = 1 << 15  # holds several lines of metrics
_INTERVAL_SECONDS = 1.0


class _State(NamedTuple):
    """Of a cell that has begun and not ended."""

    step: int
    fraction: float  # of the budget
    changed_at: float  # Unix time


class GridDisplay:
    """Shows how far a grid is: bars on a terminal, elsewhere a plain line for every cell that ends.

    Args:
        cells: The folder that holds the folders of the cells.
        names: All cells of the grid.
        budget: Of one cell.
        stream: Where to print, standard output when None. What is not a terminal gets no control codes.
    """

    def __init__(self, cells: Path, names: Sequence[str], budget: TrainingConfig, stream: TextIO | None = None) -> None:
        self._cells, self._names, self._budget = cells, list(names), budget
        self._stream = stream or sys.stdout
        # rich would take FORCE_COLOR, which many build servers set, for a terminal.
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        # Nothing else may write to the stream: a signal inside of a write must not write again.
        self._live: Live | None = None
        if terminal:
            console = Console(file=self._stream)
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._ended = {name for name in self._names if self._has_ended(name)}
        self._begun, self._begun_at = time.monotonic(), time.time()
        self._work_before = self._work(self._begun_cells())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Looks every second until the block ends.

        By a timer's signal: next to a thread, which may hold a lock just then, data loaders would fork.
        """

        def look(*_: Any) -> None:
            self.refresh()
            signal.setitimer(signal.ITIMER_REAL, _INTERVAL_SECONDS)

        before = signal.signal(signal.SIGALRM, look)
        if self._live is not None:
            self._live.start()
        try:
            look()
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self.refresh()
            if self._live is not None:
                self._live.stop()

    def refresh(self) -> None:
        """Looks at the folders, and shows what is new."""
        new = [name for name in self._names if name not in self._ended and self._has_ended(name)]
        self._ended.update(new)
        begun = self._begun_cells()
        if self._live is not None:
            self._live.update(self._render(begun), refresh=True)
        elif new:
            rest = "  ".join(self._facts(begun))
            print("\n".join([*map(self._outcome, new), rest]), file=self._stream, flush=True)

    def seconds_left(self) -> float | None:
        """None while it cannot be known."""
        return self._seconds_left(self._work(self._begun_cells()))

    def _seconds_left(self, work: float) -> float | None:
        # The speed of this session, however many cells run at once.
        speed = (work - self._work_before) / max(time.monotonic() - self._begun, 1e-9)
        return (len(self._names) - work) / speed if speed > 0 else None

    def _work(self, begun: Mapping[str, _State]) -> float:
        return len(self._ended) + sum(state.fraction for state in begun.values())

    def _facts(self, begun: Mapping[str, _State]) -> list[str]:
        left = self._seconds_left(self._work(begun))
        unfinished = len(self._ended) < len(self._names)
        return [
            f"{len(self._ended)}/{len(self._names)} cells",
            *([f"{clock(left)} left"] if left is not None and unfinished else []),
        ]

    def _outcome(self, name: str) -> str:
        entry = json.loads((self._cells / name / "result.json").read_text(encoding="utf-8"))
        told = (
            f"failed: {entry['failure']}"
            if entry["failure"]
            else f"{entry['steps']} steps in {clock(entry['seconds'])}"
        )
        return f"{name}  {told}"

    def _has_ended(self, name: str) -> bool:
        return (self._cells / name / "result.json").exists()

    def _begun_cells(self) -> dict[str, _State]:
        states = {name: self._state(name) for name in self._names if name not in self._ended}
        return {name: state for name, state in states.items() if state is not None}

    def _state(self, name: str) -> _State | None:
        """By the last line of metrics.jsonl."""
        try:
            with open(self._cells / name / "metrics.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                record = json.loads(file.read().rstrip(b"\n").rpartition(b"\n")[2])
                changed_at = os.fstat(file.fileno()).st_mtime
            fraction = self._budget.progress(record["step"], record["seconds"])
        except (OSError, ValueError, KeyError, TypeError):  # not there yet, or a line half written
            return None
        return _State(record["step"], min(1.0, fraction), changed_at)

    def _render(self, begun: Mapping[str, _State]) -> Group:
        rows = Table.grid(padding=(0, 2))
        rows.add_row(self._bar(self._work(begun) / len(self._names)), *map(Text, self._facts(begun)))
        for name, state in begun.items():
            if state.changed_at >= self._begun_at:
                doing = f"step {state.step}" if state.fraction < 1 else "scoring"
                rows.add_row(self._bar(state.fraction), Text(name, style="dim"), Text(doing, style="dim"))
        return Group(rows)

    def _bar(self, fraction: float) -> ProgressBar:
        return ProgressBar(total=1.0, completed=fraction, width=30)
