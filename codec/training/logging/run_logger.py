"""The log of a run: metrics.jsonl, status.json, log.txt, skipped_files.txt, the console and optional sinks."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch import Tensor

from codec.evaluation.report.scores import format_scores
from codec.training.logging.metrics_file import MetricsFile
from codec.training.logging.progress_bar import ProgressDisplay, clock
from codec.training.logging.skipped_files import SkippedFiles, printable
from codec.training.logging.status_file import StatusFile

__all__ = ["RunLogger", "Sink"]

_RESERVED = ("split", "step", "seconds")
_PRINTED_SKIPS = 3  # number of skipped files that are printed; after that every 100th


class Sink(Protocol):
    """An additional destination of metrics and audio, for example Weights & Biases."""

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Called once before all other methods, with the run's folder and its resolved configuration."""

    def rewind(self, step: int) -> None:
        """Called when the run returns to `step`. Metrics of later steps are sent again."""

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Receives one record. All values are finite."""

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        """Receives the decoded audio of a held-out clip. Shape: audio [C, T] in [-1, 1]."""

    def close(self) -> None:
        """Called once at the end."""


class RunLogger:
    """Writes the log of one run, prints progress, and forwards metrics and audio to the sinks.

    In a run of several processes only the main one writes. The loggers of the other processes do nothing, except that
    they add to skipped_files.txt, because each process reads its own part of the audio.

    Args:
        folder: The run's folder, created by the first write. Existing files are continued.
        sinks: Additional destinations.
        display: Progress on the console. The default prints to standard output.
        config: The resolved configuration, for sinks that store it.
        is_main: Whether this is the main process.
    """

    def __init__(
        self,
        folder: str | Path,
        sinks: Sequence[Sink] = (),
        display: ProgressDisplay | None = None,
        config: Mapping[str, Any] | None = None,
        is_main: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.metrics_path = self.folder / "metrics.jsonl"
        self.is_main = is_main
        self._metrics = MetricsFile(self.metrics_path)
        self._status = StatusFile(self.folder / "status.json")
        self._skipped = SkippedFiles(self.folder / "skipped_files.txt")
        self._text: TextIO | None = None
        self._display = display or ProgressDisplay()
        self._sinks = list(sinks) if is_main else []
        self._config = config or {}
        self._is_open = False
        self._durations: dict[str, float] = {}  # seconds of the latest phase of each name

    def _open(self) -> None:
        """Makes the folder and opens the sinks, before the first write."""
        if not self._is_open:
            self._is_open = True
            self.folder.mkdir(parents=True, exist_ok=True)
            unopened, self._sinks = self._sinks, []
            for sink in unopened:
                sink.open(self.folder, self._config)
                self._sinks.append(sink)  # one that fails to open is not closed

    # ------------------------------------------------------------------------------------------ status

    def describe(self, **facts: str | float | None) -> None:
        """Adds facts to status.json, for example `corpus` and `device`."""
        if self.is_main:
            self._open()
            self._status.update(at_once=False, **facts)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Records in status.json how the block ends: finished, stopped by the user or a signal, or failed."""
        self.describe(total_steps=self._display.total_steps)
        try:
            yield
        except KeyboardInterrupt as stop:
            self.end("stopped", str(stop) or "interrupted")
            raise
        except BaseException as error:
            self.end("failed", " ".join(str(error).split()) or type(error).__name__)
            raise
        if self.is_main:
            self._status.update(state="finished", phase="")

    def end(self, state: str, message: str) -> None:
        """Sets the final state of the session and closes the log. Later calls only close it.

        Args:
            state: "stopped" or "failed".
            message: Why, or how to resume. It is added to log.txt; whoever handles the error prints it.
        """
        if self.is_main and not self._status.ended:
            self._open()
            self._write_text(printable(message))
            self._status.update(state=state, phase="", message=message)
        self.close()

    @contextmanager
    def phase(self, name: str, detail: str, count: int) -> Iterator[Callable[[], None]]:
        """Announces a part of the run that takes time, with its expected duration once there is one.

        Args:
            name: Such as "validation"; phases of one name take about the same time.
            detail: What it works on.
            count: Number of its items.

        Yields:
            A function to call after each item.
        """
        expected = self._durations.get(name, 0.0)
        self.message(f"{name}: {detail}{f', about {clock(expected)}' if expected > 1 else ''}")
        if self.is_main:
            self._status.update(phase=name)
        begun, done = time.monotonic(), 0

        def advance() -> None:
            nonlocal done
            done += 1
            if self.is_main:
                self._display.phase(name, done, count, time.monotonic() - begun)
                self._status.update(at_once=False)

        yield advance
        self._durations[name] = time.monotonic() - begun
        if self.is_main:
            self._status.update(phase="training")

    # ------------------------------------------------------------------------------------------ records

    def metrics(self, split: str, step: int, seconds: float, values: Mapping[str, float | Tensor]) -> None:
        """Writes one record to metrics.jsonl, prints it, and sends its finite values to the sinks.

        Args:
            split: "train" or "validation".
            step: Optimizer steps done.
            seconds: Training time of all sessions of the run.
            values: Metric name to number. NaN and infinity are written as null, because JSON has neither.

        Raises:
            ValueError: A metric is named `split`, `step` or `seconds`.
        """
        taken = [name for name in _RESERVED if name in values]
        if taken:
            raise ValueError(f"metric names must differ from {', '.join(_RESERVED)}, got {', '.join(taken)}")
        if not self.is_main:
            return
        self._open()
        numbers = {name: _to_number(value) for name, value in values.items()}
        finite = {name: value for name, value in numbers.items() if value is not None}
        self._metrics.append({"split": split, "step": step, "seconds": round(float(seconds), 3), **numbers})
        if split == "train":
            self._display.train(step, seconds, finite)
        else:
            self.message(f"{split} at step {step}:  {format_scores(finite)}")
        self._update_status(step, seconds, at_once=True)
        for sink in self._sinks:
            sink.metrics(split, step, finite)

    def progress(self, step: int, seconds: float) -> None:
        """Advances the progress bar. Cheap enough to call after every step."""
        if self.is_main:
            self._open()
            self._display.advance(step, seconds)
            self._update_status(step, seconds, at_once=False)

    def saved(self, step: int, best: bool) -> None:
        """Shows that a checkpoint was saved, and whether it is the best so far."""
        self._display.mark("saved", step)
        if best:
            self._display.mark("best", step)

    def _update_status(self, step: int, seconds: float, at_once: bool) -> None:
        left = self._display.seconds_left()
        self._status.update(
            at_once=at_once,
            step=step,
            progress=round(self._display.fraction(), 4),
            seconds=round(float(seconds), 3),
            seconds_left=None if left is None else round(left),
        )

    def message(self, text: str) -> None:
        """Prints a line above the progress bar and appends it, with the time, to log.txt."""
        if not self.is_main:
            return
        self._open()
        text = printable(text)
        self._display.print(text)
        self._write_text(text)

    def skip_file(self, path: str, reason: str) -> None:
        """Adds a file that is not trained on to skipped_files.txt, once; prints the first few and every 100th."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = self._skipped.add(path, reason)
        count = len(self._skipped)
        if line is not None and (count <= _PRINTED_SKIPS or count % 100 == 0):
            self.message(f"skipped file {count}: {line}".replace("\t", ": "))

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        """Sends audio to the sinks, clipped to [-1, 1]. Shape: audio [C, T].

        Raises:
            ValueError: `audio` does not have two dimensions.
        """
        if audio.ndim != 2:
            raise ValueError(f"expected audio of shape [C, T], got {list(audio.shape)}")
        self._open()
        clipped = audio.detach().float().cpu().clamp(-1, 1)
        for sink in self._sinks:
            sink.audio(name, step, clipped, sample_rate)

    def truncate_after(self, step: int) -> int:
        """Removes the records of later steps and incomplete lines from metrics.jsonl; returns their number.

        Called when a run resumes or rolls back. The removed steps are then computed and logged again.
        """
        if not self.is_main:
            return 0
        self._open()
        removed = self._metrics.truncate_after(step)
        for sink in self._sinks:
            sink.rewind(step)
        return removed

    def close(self) -> None:
        """Closes the files, the display and the sinks. A second call does nothing."""
        if self._is_open and self.is_main and not self._status.ended:
            self._status.update(state="stopped", phase="")
        self._display.close()
        self._metrics.close()
        if self._text is not None:
            self._text.close()
            self._text = None
        while self._is_open and self._sinks:
            self._sinks.pop().close()

    def _write_text(self, text: str) -> None:
        if self._text is None:
            self._text = open(self.folder / "log.txt", "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._text.flush()


def _to_number(value: float | Tensor) -> float | int | None:
    """A JSON number, None for NaN and infinity."""
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None
