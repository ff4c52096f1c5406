"""What a run tells the world while it goes: metrics.jsonl, log.txt, the console and optional sinks.

`metrics.jsonl` and `log.txt` are always written. wandb and TensorBoard are sinks: with an empty list nothing
else in the project knows that they exist.
"""

import json
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch import Tensor

from codec.evaluation.report.scores import format_scores
from codec.training.logging.progress_bar import ProgressDisplay

__all__ = ["RunLogger", "Sink", "TensorBoardSink", "WandbSink"]

_RESERVED = ("split", "step", "seconds")
_SHOWN = 3  # files set aside that are named on the console; all are in skipped_files.txt


class Sink(Protocol):
    """Where a run's numbers and sounds also go. `open` comes first; metrics never hold a non-finite value."""

    def open(self, folder: Path, config: Mapping[str, Any]) -> None: ...

    def rewind(self, step: int) -> None: ...

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None: ...

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None: ...

    def close(self) -> None: ...


class RunLogger:
    """Keeps the record of one run in its folder, and passes it on to the console and to the sinks.

    Args:
        folder: the run's folder, made if it is missing. Files already there are continued.
        sinks: further places that get every metric and every sound.
        display: how the console shows progress; without one, plain lines on standard output.
        config: the resolved configuration, for sinks that keep one.
    """

    def __init__(
        self,
        folder: str | Path,
        sinks: Sequence[Sink] = (),
        display: ProgressDisplay | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics_path = self.folder / "metrics.jsonl"
        self._display = display or ProgressDisplay()
        self._sinks = list(sinks)
        listing = self.folder / "skipped_files.txt"
        self._set_aside = set(listing.read_text(encoding="utf-8").splitlines() if listing.exists() else [])
        self._lines: TextIO | None = None
        if self.metrics_path.exists() and not self.metrics_path.read_bytes().endswith(b"\n"):
            self._keep_lines_up_to(None)  # a line appended to half a line would spoil both
        for sink in self._sinks:
            sink.open(self.folder, config or {})
        self._text = open(self.folder / "log.txt", "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def metrics(self, split: str, step: int, seconds: float, values: Mapping[str, float | Tensor]) -> None:
        """Writes one line of metrics, shows it, and hands its finite values to the sinks.

        Args:
            split: "train" or "validation".
            step: optimizer steps done.
            seconds: training time so far, all sessions of the run together.
            values: name to number; NaN and infinities are stored as null, which is valid JSON.

        Raises:
            ValueError: when a name would overwrite `split`, `step` or `seconds`.
        """
        taken = [name for name in _RESERVED if name in values]
        if taken:
            raise ValueError(f"metric names must differ from {', '.join(_RESERVED)}, got {', '.join(taken)}")
        plain = {name: _plain_number(value) for name, value in values.items()}
        finite = {name: value for name, value in plain.items() if value is not None}
        record = {"split": split, "step": step, "seconds": round(float(seconds), 3), **plain}
        if self._lines is None:
            self._lines = open(self.metrics_path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        self._lines.flush()
        for sink in self._sinks:
            sink.metrics(split, step, finite)
        if split == "train":
            self._display.train(step, seconds, finite)
        else:
            self.message(f"{split} at step {step}:  {format_scores(finite)}")

    def progress(self, step: int, seconds: float) -> None:
        """Moves the progress bar between two lines of metrics; cheap enough for every step."""
        self._display.advance(step, seconds)

    def message(self, text: str) -> None:
        """Prints a line above the progress bar and adds it, with the time, to log.txt."""
        text = _printable(text)
        self._display.print(text)
        self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._text.flush()

    def skip_file(self, path: str, reason: str) -> None:
        """Adds a file that is not trained on to skipped_files.txt, once; prints the first few and every 100th."""
        # One line a file, whatever its name holds, so that the lines are the count.
        entry = _printable(" ".join(f"{path}\t{reason}".splitlines()))
        if entry not in self._set_aside:
            self._set_aside.add(entry)
            with open(self.folder / "skipped_files.txt", "a", encoding="utf-8") as file:
                file.write(entry + "\n")
            count = len(self._set_aside)
            if count <= _SHOWN or count % 100 == 0:
                self.message(f"set aside ({count} so far): {entry}".replace("\t", ": "))

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        """Hands a sound to the sinks.

        Shape: audio [C, T] in about [-1, 1].
        """
        if audio.ndim != 2:
            raise ValueError(f"audio [C, T] is wanted, got {list(audio.shape)}")
        clipped = audio.detach().float().cpu().clamp(-1, 1)
        for sink in self._sinks:
            sink.audio(name, step, clipped, sample_rate)

    def truncate_after(self, step: int) -> int:
        """Forgets lines of later steps and lines that are not whole: a resumed run writes them again.

        Returns:
            How many lines were removed.
        """
        removed = self._keep_lines_up_to(step)
        for sink in self._sinks:
            sink.rewind(step)
        return removed

    def close(self) -> None:
        """Closes the files, the display and the sinks; a second call does nothing."""
        self._display.close()
        self._text.close()
        if self._lines is not None:
            self._lines.close()
        while self._sinks:
            self._sinks.pop().close()

    def _keep_lines_up_to(self, step: int | None) -> int:
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        if not self.metrics_path.exists():
            return 0
        lines = self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _belongs(line, step)]
        beside = self.metrics_path.with_name("metrics.jsonl.part")
        with open(beside, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.metrics_path)
        return len(lines) - len(kept)


class WandbSink:
    """Sends metrics and sounds to Weights & Biases; a run that is started again continues under its old id.

    Args:
        project: the wandb project.
        name: the run's name there; the folder's name when None.
        mode: "online", "offline" (no network; `wandb sync` later) or "disabled".
        entity: the team or user, None for the account's own.
    """

    def __init__(self, project: str, name: str | None = None, mode: str = "online", entity: str | None = None) -> None:
        if mode not in ("online", "offline", "disabled"):
            raise ValueError(f"mode online, offline or disabled is wanted for wandb, got {mode!r}")
        self.project, self.name, self.mode, self.entity = project, name, mode, entity
        self._run: Any = None

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb  # takes a second or two to import, and most runs do not use it

        id_file = folder / "wandb_id.txt"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4), encoding="utf-8")
        self._run = wandb.init(
            project=self.project,
            name=self.name or folder.resolve().name,
            id=id_file.read_text(encoding="utf-8").strip(),
            entity=self.entity,
            mode=self.mode,  # type: ignore[arg-type]
            dir=str(folder),
            config=dict(config),
            # Offline there is no server to ask, and wandb warns about a resume that it cannot do.
            resume="allow" if self.mode == "online" else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        # wandb's own counter refuses to go back, which a resumed run does: "step" is an axis of ours.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def rewind(self, step: int) -> None:
        """wandb keeps what it was sent; the steps that are done again appear again, with the same values."""

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        import wandb

        sound = wandb.Audio(audio.T.numpy(), sample_rate=sample_rate, caption=f"{name}, step {step}")
        self._run.log({"step": step, f"audio/{name}": sound})

    def close(self) -> None:
        self._run.finish()


class TensorBoardSink:
    """Writes metrics and sounds as TensorBoard event files.

    Args:
        folder: where they go, relative to the run's folder.
    """

    def __init__(self, folder: str = "tensorboard") -> None:
        self.folder = folder
        self._writer: Any = None

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._path = folder / self.folder
        self._start(None)

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._start(step + 1)

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)
        self._writer.flush()

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        # TensorBoard's writer takes one channel only.
        self._writer.add_audio(f"audio/{name}", audio.mean(0, keepdim=True), step, sample_rate=sample_rate)

    def close(self) -> None:
        self._writer.close()

    def _start(self, purge_step: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("logger=tensorboard needs a package: pip install tensorboard") from error
        self._writer = SummaryWriter(str(self._path), purge_step=purge_step)


def _plain_number(value: float | Tensor) -> float | int | None:
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


def _printable(text: str) -> str:
    """File names may hold bytes that are not text, and control codes."""
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in whole)


def _belongs(line: str, step: int | None) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return False
    return step is None or record["step"] <= step
