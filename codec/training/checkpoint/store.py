"""Checkpoints that are whole or absent: written beside, made durable, renamed, and checked when they are read."""

import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from codec.training.checkpoint.file import (
    Label,
    UnreadableError,
    check_storable,
    read_archive,
    read_label,
    write_archive,
)

__all__ = ["Checkpoint", "CheckpointError", "CheckpointStore", "load_checkpoint"]

_NAME = re.compile(r"step_(\d{7,})\.pt")
_LOGGER = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none of those that are there can be read."""


class Checkpoint(NamedTuple):
    """What a run needs to continue: `state` is nested dicts, lists and tuples of tensors (on CPU) and primitives."""

    step: int
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, `step_<7 digits>.pt`, and `best.pt`, a second name of the best of them.

    A kill at any moment leaves each of them whole or absent. Of several processes only one may save.

    Args:
        folder: Where they lie; made on the first save.
        keep_last: The newest so many are kept.
        keep_every: Checkpoints at multiples of so many steps are kept for good; None for none.
        report: Gets one sentence for each file that is damaged or set aside; by default a logged warning.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_last: int = 2,
        keep_every: int | None = None,
        report: Callable[[str], None] = _LOGGER.warning,
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last must be 1 or more, got {keep_last}")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every must be 1 or more, or None, got {keep_every}")
        self.folder = Path(folder)
        self.best_path = self.folder / "best.pt"
        self.keep_last = keep_last
        self.keep_every = keep_every
        self._report = report

    def save(self, step: int, state: dict[str, Any], score: float | None = None, wanted: Collection[int] = ()) -> Path:
        """Writes a checkpoint; once it is on the disk, removes those that are no longer kept.

        Args:
            wanted: Steps of earlier checkpoints that are kept beside the newest.
            score: Of this state on held-out data, lower is better. The checkpoint becomes `best.pt` unless a lower
                or equal score stands there already, or the score is not finite.

        Raises:
            CheckpointError: It could not be written, for want of space for example. Earlier checkpoints are intact
                and half a file is never left, so training can go on.
            TypeError: The state holds something that could not be loaded again; the message says where.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        check_storable(state, "state")
        label = Label(step, float(score) if score is not None and math.isfinite(score) else None)
        path = self._path(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_durably(path, lambda file: write_archive(file, state, label))
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {error.strerror or error} "
                f"({_tensor_bytes(state):,} bytes wanted, {_free_bytes(self.folder):,} free); "
                "earlier checkpoints are intact"
            ) from error
        try:
            if label.score is not None:
                self._keep_if_best(path, label.score)
            self._remove_outdated(step, wanted)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of step {step} is safe in {path}, but best.pt or the removal of outdated "
                f"checkpoints beside it failed: {error.strerror or error}"
            ) from error
        return path

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None if there has never been one.

        A damaged one is reported and the one before is taken.

        Raises:
            CheckpointError: There are checkpoints, but none is whole: starting again would hide a loss.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return _read(path)
            except UnreadableError as error:
                self._report(f"checkpoint {path} is not used: {error}")
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoint(s) in {self.folder} can be read; "
                "move them away to start again from step 0"
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of one step.

        Raises:
            CheckpointError: It is not there, or damaged.
        """
        path = self._path(step)
        try:
            return _read(path)
        except UnreadableError as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error

    def complete(self, step: int) -> None:
        """Makes up for a kill that came when the checkpoint of `step` was written but not yet compared to `best.pt`.

        Raises:
            CheckpointError: It cannot be read, or `best.pt` cannot be written.
        """
        path = self._path(step)
        try:
            score = read_label(path).score
            if score is not None:
                self._keep_if_best(path, score)
        except (UnreadableError, OSError) as error:
            raise CheckpointError(f"best.pt beside {path} could not be brought up to date: {error}") from error

    def forget_after(self, step: int) -> None:
        """Removes all later checkpoints, that of `best.pt` aside."""
        for path in self.paths():
            if _step_of(path) > step:
                path.unlink()

    def steps(self) -> set[int]:
        """Steps of the checkpoints in the folder, whole or not."""
        return {_step_of(path) for path in self.paths()}

    def load_best(self) -> Checkpoint | None:
        """The checkpoint with the lowest score, or None if none was saved with a score.

        Raises:
            CheckpointError: `best.pt` is damaged.
        """
        return load_checkpoint(self.best_path) if self.best_path.exists() else None

    def best_score(self) -> float | None:
        """Score of `best.pt`, None if there is none that can be read."""
        if not self.best_path.exists():
            return None
        try:
            return read_label(self.best_path).score
        except UnreadableError as error:
            self._report(f"{self.best_path} will be replaced: {error}")
            return None

    def paths(self) -> list[Path]:
        """Checkpoints in the folder, oldest first, whole or not."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_step_of)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:07d}.pt"

    def _keep_if_best(self, path: Path, score: float) -> None:
        best = self.best_score()
        if best is not None and best <= score:
            return
        beside = _beside(self.best_path)
        beside.unlink(missing_ok=True)
        try:
            os.link(path, beside)
        except OSError:  # a file system without hard links
            with open(path, "rb") as source:
                _write_durably(self.best_path, lambda file: shutil.copyfileobj(source, file))
            return
        os.replace(beside, self.best_path)
        beside.unlink(missing_ok=True)  # still there if both names were the same file already
        _sync_folder(self.folder)

    def _remove_outdated(self, step: int, wanted: Collection[int]) -> None:
        """Removes what is no longer kept, now that the checkpoint of `step` is durable."""
        for path in self.paths():
            if _step_of(path) > step:
                # The run went back behind it, because it is damaged: it must not count as the newest again.
                os.replace(path, path.with_name(f"{path.name}.set_aside"))
                self._report(f"checkpoint {path} is later than step {step}: renamed to {path.name}.set_aside")
        for path in self.paths()[: -self.keep_last]:
            if (self.keep_every is None or _step_of(path) % self.keep_every) and _step_of(path) not in wanted:
                path.unlink()
        for path in self.folder.glob(".*.partial"):  # of a process that was killed while it wrote
            path.unlink()


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file, or the newest whole one of a run's folder.

    Raises:
        CheckpointError: The file is damaged, or there is no checkpoint.
    """
    if path.is_file():
        try:
            return _read(path)
        except UnreadableError as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error
    newest = CheckpointStore(path / "checkpoints").load_newest()
    if newest is None:
        raise CheckpointError(f"a run's folder with checkpoints, or one of its files, is wanted; got {path}")
    return newest


def _read(path: Path) -> Checkpoint:
    label, state = read_archive(path)
    return Checkpoint(label.step, state)


def _write_durably(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Puts what `write` writes in the place of `path`, whole and on the disk, or leaves everything as it was."""
    beside = _beside(path)
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes renames and links in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensor_bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_tensor_bytes, items))


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _step_of(path: Path) -> int:
    return int(path.name[len("step_") : -len(".pt")])
