"""Saving and restoring a run that may consist of several processes."""

from collections.abc import Collection
from typing import Any

from safetensors import SafetensorError

from codec.model import Codec
from codec.model_file import save_model
from codec.training.checkpoint.file import Checkpoint, CheckpointError
from codec.training.checkpoint.store import CheckpointStore
from codec.training.distributed import Processes
from codec.training.logging.run_logger import RunLogger

__all__ = ["Checkpointer"]


class Checkpointer:
    """Saves the checkpoints and the model of a run, and restores them together with the run's log.

    All processes of a run call the same methods in the same order. Only the main process writes.
    """

    def __init__(self, store: CheckpointStore, logger: RunLogger, processes: Processes) -> None:
        self.store = store
        self.logger = logger
        self.processes = processes
        self.model_path = store.folder.parent / "model.safetensors"

    def save(
        self, step: int, state: dict[str, Any], model: Codec, score: float | None, protected: Collection[int]
    ) -> None:
        """Writes the model and a checkpoint. A failed write is logged, and training continues.

        Args:
            step: Optimizer steps done. At step 0 no model is written.
            state, score, protected: See `CheckpointStore.save`.
        """
        if not self.processes.is_main:
            return
        # The model is written first: after the last checkpoint no further step would write it.
        if step:
            try:
                save_model(model, self.model_path)
            except (OSError, SafetensorError) as error:
                self.logger.message(f"model not saved at step {step}, training continues: {error}")
        try:
            self.store.save(step, state, score, protected)
        except CheckpointError as error:
            self.logger.message(f"checkpoint not saved, training continues: {error}")

    def resume(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None at the start of a run. Later records are removed from the log.

        Raises:
            CheckpointError: No checkpoint can be read, or the processes read different ones.
        """
        checkpoint = self.store.load_newest()
        steps = self.processes.all_gather_object(None if checkpoint is None else checkpoint.step)
        if len(set(steps)) > 1:
            raise CheckpointError(f"the processes read checkpoints of different steps in {self.store.folder}: {steps}")
        if checkpoint is None:
            self.logger.truncate_after(-1)  # records of a run that was stopped before its first checkpoint
            return None
        if self.processes.is_main:
            self.store.update_best(checkpoint.step)
        self.logger.truncate_after(checkpoint.step)
        self.logger.message(f"resumed at step {checkpoint.step}")
        return checkpoint

    def rewind(self, step: int) -> Checkpoint:
        """The checkpoint of an earlier step. Later checkpoints and later records in the log are removed.

        Raises:
            CheckpointError: The checkpoint is missing or corrupt.
        """
        checkpoint = self.store.load(step)
        self.logger.truncate_after(step)
        if self.processes.is_main:
            self.store.remove_after(step)
        return checkpoint

    def steps(self) -> set[int]:
        """Steps of the existing checkpoints, the same in all processes."""
        return self.processes.broadcast_object(self.store.steps())
