"""The log of a run: metrics.jsonl, log.txt, skipped_files.txt, the console and optional sinks."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch import Tensor

from codec.evaluation.report.scores import format_scores
from codec.training.logging.metrics_file import MetricsFile
from codec.training.logging.progress_bar import ProgressDisplay
from codec.training.logging.skipped_files import SkippedFiles, printable

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
        folder: The run's folder, created if missing. Existing files are continued.
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
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics_path = self.folder / "metrics.jsonl"
        self.is_main = is_main
        self._metrics = MetricsFile(self.metrics_path)
        self._skipped = SkippedFiles(self.folder / "skipped_files.txt")
        self._text: TextIO | None = None
        self._display = display or ProgressDisplay()
        self._sinks = list(sinks) if is_main else []
        for sink in self._sinks:
            sink.open(self.folder, config or {})

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
        numbers = {name: _to_number(value) for name, value in values.items()}
        finite = {name: value for name, value in numbers.items() if value is not None}
        self._metrics.append({"split": split, "step": step, "seconds": round(float(seconds), 3), **numbers})
        for sink in self._sinks:
            sink.metrics(split, step, finite)
        if split == "train":
            self._display.train(step, seconds, finite)
        else:
            self.message(f"{split} at step {step}:  {format_scores(finite)}")

    def progress(self, step: int, seconds: float) -> None:
        """Advances the progress bar. Cheap enough to call after every step."""
        if self.is_main:
            self._display.advance(step, seconds)

    def message(self, text: str) -> None:
        """Prints a line above the progress bar and appends it, with the time, to log.txt."""
        if not self.is_main:
            return
        text = printable(text)
        self._display.print(text)
        if self._text is None:
            self._text = open(self.folder / "log.txt", "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._text.flush()

    def skip_file(self, path: str, reason: str) -> None:
        """Adds a file that is not trained on to skipped_files.txt, once; prints the first few and every 100th."""
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
        clipped = audio.detach().float().cpu().clamp(-1, 1)
        for sink in self._sinks:
            sink.audio(name, step, clipped, sample_rate)

    def truncate_after(self, step: int) -> int:
        """Removes the records of later steps and incomplete lines from metrics.jsonl; returns their number.

        Called when a run resumes or rolls back. The removed steps are then computed and logged again.
        """
        removed = self._metrics.truncate_after(step) if self.is_main else 0
        for sink in self._sinks:
            sink.rewind(step)
        return removed

    def close(self) -> None:
        """Closes the files, the display and the sinks. A second call does nothing."""
        self._display.close()
        self._metrics.close()
        if self._text is not None:
            self._text.close()
            self._text = None
        while self._sinks:
            self._sinks.pop().close()


def _to_number(value: float | Tensor) -> float | int | None:
    """A JSON number, None for NaN and infinity."""
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None
