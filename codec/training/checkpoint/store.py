"""The checkpoints of one run. A kill at any moment leaves each of them complete or absent."""

import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from codec.atomic_file import atomic_write
from codec.checkpoint_file import Checkpoint, CheckpointError, read_checkpoint, read_score, write_checkpoint
from codec.ranges import PositiveInt, check_ranges

__all__ = ["CheckpointStore", "load_checkpoint"]

_NAME = re.compile(r"step_(\d{7,})\.pt")
_LOGGER = logging.getLogger(__name__)


class CheckpointStore:
    """A folder of checkpoints named `step_<7 digits>.pt`, and `best.pt`, a link to or copy of the best one.

    Several processes may read. Only one process may write.

    Args:
        folder: Created by the first save.
        keep_last: Number of newest checkpoints that are kept.
        keep_every: Interval in steps; checkpoints at its multiples are never removed. None removes them as well.
        report: Called with one sentence for each corrupt file. The default logs a warning.

    Attributes:
        best_step: Step of `best.pt`, if this object has written it.

    Raises:
        ValueError: `keep_last` or `keep_every` is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_last: PositiveInt = 2,
        keep_every: PositiveInt | None = None,
        report: Callable[[str], None] = _LOGGER.warning,
    ) -> None:
        check_ranges(CheckpointStore.__init__, locals(), "checkpoints.")
        self.folder = Path(folder)
        self.best_path = self.folder / "best.pt"
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.best_step: int | None = None
        self._report = report
        self._best_read: tuple[object, float | None] = (None, None)  # identity of the file, score

    def save(
        self, step: int, state: dict[str, Any], score: float | None = None, protected: Collection[int] = ()
    ) -> Path:
        """Writes a checkpoint, then removes the checkpoints that are no longer kept.

        Args:
            step: Optimizer steps done, 0 or more.
            state: Nested dicts, lists and tuples of tensors and primitives.
            score: On held-out clips, lower is better. A finite score below that of `best.pt` replaces `best.pt`.
            protected: Steps of earlier checkpoints that must not be removed.

        Raises:
            CheckpointError: The disk refused a write. Earlier checkpoints are intact and no partial file is left.
            TypeError: The state holds a value that could not be loaded again.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        checkpoint = Checkpoint(step, state, float(score) if score is not None and math.isfinite(score) else None)
        path = self._path(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                write_checkpoint(temporary, checkpoint)
                _flush_to_disk(temporary)
            _flush_to_disk(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {error.strerror or error} "
                f"({_tensor_bytes(state):,} bytes needed, {_free_bytes(self.folder):,} free); "
                "earlier checkpoints are intact"
            ) from error
        try:
            if checkpoint.score is not None:
                self._replace_best(path, checkpoint.score)
            self._remove_old(step, protected)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of step {step} was written to {path}, but updating best.pt or removing old "
                f"checkpoints failed: {error.strerror or error}"
            ) from error
        return path

    def load_newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None if the folder has no checkpoints. Corrupt files are reported.

        Raises:
            CheckpointError: All checkpoints are corrupt.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return read_checkpoint(path)
            except CheckpointError as error:
                self._report(f"checkpoint skipped: {error}")
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoint(s) in {self.folder} can be read; "
                "move them away to start again from step 0"
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of one step.

        Raises:
            CheckpointError: It is missing or corrupt.
        """
        return read_checkpoint(self._path(step))

    def load_best(self) -> Checkpoint | None:
        """The checkpoint with the lowest score, or None if none was saved with a score.

        Raises:
            CheckpointError: `best.pt` is corrupt.
        """
        return read_checkpoint(self.best_path) if self.best_path.exists() else None

    def best_score(self) -> float | None:
        """The score of `best.pt`, or None if it is missing or corrupt. A file that is unchanged is not read again."""
        if not self.best_path.exists():
            return None
        found = _identity(self.best_path)
        if found != self._best_read[0]:
            try:
                self._best_read = found, read_score(self.best_path)
            except CheckpointError as error:
                self._report(f"best.pt will be replaced: {error}")
                return None
        return self._best_read[1]

    def update_best(self, step: int) -> None:
        """Compares the checkpoint of `step` with `best.pt`, in case the process was killed between the two writes.

        Raises:
            CheckpointError: The checkpoint cannot be read, or `best.pt` cannot be written.
        """
        path = self._path(step)
        score = read_score(path)
        try:
            if score is not None:
                self._replace_best(path, score)
        except OSError as error:
            raise CheckpointError(f"best.pt could not be replaced by {path}: {error.strerror or error}") from error

    def remove_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, except `best.pt`."""
        for path in self.paths():
            if _step_of(path) > step:
                path.unlink()

    def steps(self) -> set[int]:
        """Steps of all checkpoints, intact or corrupt."""
        return {_step_of(path) for path in self.paths()}

    def paths(self) -> list[Path]:
        """Files of all checkpoints, oldest first, intact or corrupt."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_step_of)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:07d}.pt"

    def _replace_best(self, path: Path, score: float) -> None:
        best = self.best_score()
        if best is not None and best <= score:
            return
        with atomic_write(self.best_path) as temporary:
            temporary.unlink()
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)
                _flush_to_disk(temporary)
        _flush_to_disk(self.folder)
        self.best_step = _step_of(path)
        self._best_read = _identity(self.best_path), score

    def _remove_old(self, step: int, protected: Collection[int]) -> None:
        for path in self.paths():
            if _step_of(path) > step:
                # Reading skipped this file because it is corrupt. Renamed, it does not count as the newest again.
                os.replace(path, path.with_name(f"{path.name}.corrupt"))
                self._report(f"checkpoint {path} is later than step {step}: renamed to {path.name}.corrupt")
        for path in self.paths()[: -self.keep_last]:
            if (self.keep_every is None or _step_of(path) % self.keep_every) and _step_of(path) not in protected:
                path.unlink()
        for path in self.folder.glob("*.partial"):  # left by a process that was killed while it wrote
            path.unlink()


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file, or the newest intact one of a run's folder.

    Raises:
        CheckpointError: The file is corrupt, or there is no checkpoint.
    """
    if path.is_file():
        return read_checkpoint(path)
    newest = CheckpointStore(path / "checkpoints").load_newest()
    if newest is None:
        raise CheckpointError(f"expected a run's folder with checkpoints or a checkpoint file, got {path}")
    return newest


def _flush_to_disk(path: Path) -> None:
    """Makes a written file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written again."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _tensor_bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_tensor_bytes, items))


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free


def _step_of(path: Path) -> int:
    return int(path.name[len("step_") : -len(".pt")])
