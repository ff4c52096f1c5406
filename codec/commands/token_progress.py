"""The bar and the summary of the commands that work on many files in several processes."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from codec.audio import readable
from codec.commands.options.files import MAX_JOBS

__all__ = ["FileProgress", "count", "duration", "number_of_jobs"]


def number_of_jobs(options: argparse.Namespace, files: int) -> int:
    """The value of --jobs, or its default.

    Raises:
        ValueError: It is below 1 or above `MAX_JOBS`.
    """
    jobs = len(os.sched_getaffinity(0)) if options.jobs is None else options.jobs
    if not 1 <= jobs <= MAX_JOBS:
        raise ValueError(f"--jobs must be 1 to {MAX_JOBS}, got {jobs}")
    return max(1, min(jobs, files))


class FileProgress:
    """Counts files, audio and time; on a terminal there is a bar.

    Args:
        title: Beside the bar.
        total: Number of files.
        quiet: There is no bar.

    Attributes:
        files, failed: Numbers of files that were done in this run.
    """

    def __init__(self, title: str, total: int, quiet: bool = False) -> None:
        self.files = self.failed = 0
        self._title, self._total, self._quiet = title, total, quiet
        self._audio_seconds = 0.0
        self._started = time.monotonic()

    @contextmanager
    def shown(self, done: int = 0) -> Iterator[None]:
        """Shows the bar.

        Args:
            done: Number of files that an earlier run has done.
        """
        from rich.console import Console  # imported here, because few commands need it
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        counts = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        speed = TextColumn("{task.fields[speed]}")
        with Progress(*counts, speed, console=console, disable=self._quiet or not console.is_terminal) as bar:
            self._bar = bar
            self._task = bar.add_task(self._title, total=self._total, completed=done, speed="")
            self._started = time.monotonic()
            yield

    def add(self, seconds: float) -> None:
        """Counts a file with this much audio."""
        self.files += 1
        self._audio_seconds += seconds
        self._bar.update(self._task, advance=1, speed=self.speed())

    def fail(self, name: str, reason: str) -> None:
        """Counts and reports a file that could not be used."""
        self.failed += 1
        print(f"codec: {readable(name)}: {readable(reason)}", file=sys.stderr)
        self._bar.update(self._task, advance=1)

    def speed(self) -> str:
        """Files and audio per second of this run."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{self.files / seconds:.3g} files/s, {self._audio_seconds / seconds:.3g}x real time"


def count(number: int, noun: str) -> str:
    """A number with its noun in singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A length of audio in the unit that suits it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
