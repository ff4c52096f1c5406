"""Progress on the console: a bar on a terminal, plain lines everywhere else."""

import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["ProgressDisplay", "clock"]


class ProgressDisplay:
    """Prints the progress of a run: a bar and the latest losses on a terminal, a plain line per log interval elsewhere.

    Args:
        total_steps: Optimizer steps of the run, None if they are not limited.
        total_seconds: Training time of the run, None if it is not limited. The limit that is reached first counts.
        stream: Where to print; None prints to standard output. Only a terminal gets control codes.
    """

    def __init__(
        self, total_steps: int | None = None, total_seconds: float | None = None, stream: TextIO | None = None
    ) -> None:
        self.total_steps, self.total_seconds = total_steps, total_seconds
        self._stream = stream or sys.stdout
        self._step, self._seconds = 0, 0.0
        self._session_start: tuple[int, float] | None = None  # (step, seconds)
        self._losses: dict[str, float] = {}
        self._speed: float | None = None
        # Not rich's own test: it treats FORCE_COLOR, which many CI servers set, as a terminal.
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._console = Console(file=self._stream, highlight=False) if terminal else None
        self._live: Live | None = None
        self._drawn = 0.0

    def advance(self, step: int, seconds: float) -> None:
        """Advances the bar, at most ten times a second. Plain output prints nothing."""
        if self._session_start is None or step < self._step:  # step < self._step after a rollback
            self._session_start = (step, seconds)
        self._step, self._seconds = step, seconds
        if self._console is None:
            return
        if self._live is None:
            # No refresh thread: data loaders fork, and a fork can deadlock on a lock that another thread holds.
            self._live = Live(self._render(), console=self._console, auto_refresh=False)
            self._live.start()
        if time.monotonic() - self._drawn > 0.1:
            self._live.update(self._render(), refresh=True)
            self._drawn = time.monotonic()

    def train(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Displays the losses (`loss/<name>`) and the speed of one log interval."""
        self._losses = {name[5:]: value for name, value in values.items() if name.startswith("loss/")}
        self._speed = values.get("audio_seconds_per_second")
        self._drawn = 0.0  # draw new numbers at once
        self.advance(step, seconds)
        if self._console is None:
            print(f"{'  '.join(self._facts())}  {self._loss_line()}".rstrip(), file=self._stream, flush=True)

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._console is None:
            print(text, file=self._stream, flush=True)
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Draws the bar for the last time. A second call does nothing."""
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
            self._live.stop()
            self._live = None

    def seconds_left(self) -> float | None:
        """Remaining training time, None while it cannot be estimated."""
        left = []
        if self.total_seconds is not None:
            left.append(self.total_seconds - self._seconds)
        start = self._session_start
        if self.total_steps is not None and start is not None and self._step > start[0]:
            # The speed of this session only: earlier sessions may have run on another machine.
            per_step = (self._seconds - start[1]) / (self._step - start[0])
            left.append((self.total_steps - self._step) * per_step)
        return max(0.0, min(left)) if left else None

    def _fraction(self) -> float:
        by_step = self._step / self.total_steps if self.total_steps else 0.0
        by_time = self._seconds / self.total_seconds if self.total_seconds else 0.0
        return min(1.0, max(by_step, by_time))

    def _facts(self) -> list[str]:
        total = f"/{self.total_steps}" if self.total_steps else ""
        facts = [f"step {self._step}{total}"]
        if self.total_steps or self.total_seconds:
            facts.append(f"{self._fraction():.0%}")
        left = self.seconds_left()
        if left is not None:
            facts.append(f"{clock(left)} left")
        if self._speed is not None:
            facts.append(f"{self._speed:.1f} audio s/s")
        return facts

    def _loss_line(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self._losses.items())

    def _render(self) -> Group:
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=self._fraction(), width=30)
        row.add_row(bar, *(Text(fact, no_wrap=True) for fact in self._facts()))
        return Group(row, Text(self._loss_line(), style="dim", no_wrap=True, overflow="ellipsis"))


def clock(seconds: float) -> str:
    """Formats a duration as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
