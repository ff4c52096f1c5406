"""Progress on the console: a bar on a terminal, plain lines everywhere else."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["ProgressDisplay", "clock"]

_ESTIMATE_SECONDS = 5.0  # remaining time of a phase that is worth a plain line


class ProgressDisplay:
    """Prints the progress of a run: a bar and the latest losses on a terminal, a plain line per log interval elsewhere.

    If the terminal or the pipe is closed, nothing more is printed, and training continues.

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
        self._values: dict[str, float] = {}
        self._marks: dict[str, int] = {}  # saved, best -> step
        self._phase: tuple[str, int, int, float] | None = None  # name, items done, items, seconds
        self._estimated = False
        # Not rich's own test: it treats FORCE_COLOR, which many CI servers set, as a terminal.
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._console = Console(file=self._stream, highlight=False) if terminal else None
        self._live: Live | None = None
        self._drawn = 0.0

    def advance(self, step: int, seconds: float) -> None:
        """Advances the bar, at most ten times a second. Plain output prints nothing."""
        if self._session_start is None or step < self._step:  # step < self._step after a rollback
            self._session_start = (step, seconds)
        self._step, self._seconds, self._phase = step, seconds, None
        self._draw()

    def train(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Displays the losses (`loss/<name>`), the speed and the learning rate of one log interval."""
        self._values = dict(values)
        self._drawn = 0.0  # draw new numbers at once
        self.advance(step, seconds)
        if self._console is None:
            self._print_plain(f"{'  '.join(self._facts())}  {self._loss_line()}".rstrip())

    def phase(self, name: str, done: int, count: int, seconds: float) -> None:
        """Displays that `done` of `count` items of a phase took `seconds`. Plain output estimates the rest once."""
        self._estimated = self._estimated and done > 1
        self._phase = (name, done, count, seconds)
        self._draw()
        left = self._phase_left()
        if self._console is None and not self._estimated and seconds > 1 and left > _ESTIMATE_SECONDS:
            self._estimated = True
            self._print_plain(f"{name}: about {clock(left)} left")

    def mark(self, name: str, step: int) -> None:
        """Shows `name` (saved, best) with its step from now on."""
        self._marks[name] = step

    def print(self, text: str) -> None:
        """Prints a line above the bar, without interpreting markup."""
        if self._console is None:
            self._print_plain(text)
        else:
            with self._unless_closed():
                self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Draws the bar for the last time. A second call does nothing."""
        if self._live is not None:
            with self._unless_closed():
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

    def fraction(self) -> float:
        """Share of the run that is done."""
        by_step = self._step / self.total_steps if self.total_steps else 0.0
        by_time = self._seconds / self.total_seconds if self.total_seconds else 0.0
        return min(1.0, max(by_step, by_time))

    def _draw(self) -> None:
        if self._console is None:
            return
        with self._unless_closed():
            if self._live is None:
                # No refresh thread: data loaders fork, and a fork can deadlock on a lock that another thread holds.
                self._live = Live(self._render(), console=self._console, auto_refresh=False)
                self._live.start()
            if time.monotonic() - self._drawn > 0.1:
                self._live.update(self._render(), refresh=True)
                self._drawn = time.monotonic()

    def _print_plain(self, text: str) -> None:
        with self._unless_closed():
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """A closed terminal or pipe becomes /dev/null."""
        try:
            yield
        except OSError:
            self._console, self._live = None, None
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def _facts(self) -> list[str]:
        total = f"/{self.total_steps}" if self.total_steps else ""
        facts = [f"step {self._step}{total}"]
        if self.total_steps or self.total_seconds:
            facts.append(f"{self.fraction():.0%}")
        left = self.seconds_left()
        if left is not None:
            facts.append(f"{clock(left)} left")
        for name, form in (
            ("seconds_per_step", "{:.3g} s/step"),
            ("audio_seconds_per_second", "{:.3g}x real time"),
            ("lr", "lr {:.3g}"),
        ):
            if name in self._values:
                facts.append(form.format(self._values[name]))
        return facts

    def _loss_line(self) -> str:
        losses = {name[5:]: value for name, value in self._values.items() if name.startswith("loss/")}
        if "discriminator/loss" in self._values:
            losses["discriminator"] = self._values["discriminator/loss"]
        shown = [f"{name} {value:.4g}" for name, value in losses.items()]
        return "  ".join([*shown, *(f"{name} {step}" for name, step in self._marks.items())])

    def _phase_left(self) -> float:
        _, done, count, seconds = self._phase or ("", 1, 1, 0.0)
        return (count - done) * seconds / max(1, done)

    def _render(self) -> Group:
        row = Table.grid(padding=(0, 2))
        if self._phase is not None:
            name, done, count, _ = self._phase
            row.add_row(ProgressBar(total=count, completed=done, width=30), f"{name}  {clock(self._phase_left())} left")
            return Group(row)
        bar = ProgressBar(total=1.0, completed=self.fraction(), width=30)
        row.add_row(bar, *(Text(fact, no_wrap=True) for fact in self._facts()))
        return Group(row, Text(self._loss_line(), style="dim", no_wrap=True, overflow="ellipsis"))


def clock(seconds: float) -> str:
    """Formats a duration as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
