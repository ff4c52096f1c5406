"""Saving and restoring a run that may consist of several processes."""

import shlex
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from codec.checkpoint_file import CheckpointError
from codec.model import Codec
from codec.model_file import MODEL_NAME, save_model
from codec.training.checkpoint.divergence import DivergenceError, DivergenceMonitor, Rollback
from codec.training.checkpoint.store import CheckpointStore
from codec.training.distributed import Processes
from codec.training.logging.run_logger import RunLogger

__all__ = ["Checkpointer"]


class Trained(Protocol):
    """What is saved and restored: a `Trainer`."""

    step: int
    seconds: float

    @property
    def averaged_codec(self) -> Codec:
        """The model to export."""

    def state_dict(self) -> dict[str, Any]:
        """All state that later steps depend on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""


class Checkpointer:
    """Saves the checkpoints and the model of a run, and restores them together with the run's log.

    All processes of a run call the same methods in the same order. Only the main process writes.

    Args:
        monitor: Chooses the checkpoint of a rollback.
        resume_command: The command that resumes the run, for messages; None for that of this process.
    """

    def __init__(
        self,
        store: CheckpointStore,
        monitor: DivergenceMonitor,
        logger: RunLogger,
        processes: Processes,
        resume_command: str | None = None,
    ) -> None:
        self.store, self.monitor = store, monitor
        self.logger, self.processes = logger, processes
        self.model_path = store.folder.parent / MODEL_NAME
        own_command = shlex.join(sys.orig_argv) if processes.world_size == 1 else "the same torchrun command"
        self.resume_command = resume_command or own_command

    def save(self, trained: Trained, score: float | None, regular: bool = True) -> None:
        """Writes the model and a checkpoint. A failed write is logged, and training continues.

        Args:
            score: On held-out clips, lower is better.
            regular: False for a checkpoint that depends on the clock or on a signal. It is only for resuming. A
                rollback to it would make the result of the run depend on the clock.
        """
        step = trained.step
        if regular:
            self.monitor.register_checkpoint(step)
        state = trained.state_dict()
        if not self.processes.is_main:
            return
        # The model is written first: after the last checkpoint no further step would write it.
        if step:
            try:
                save_model(trained.averaged_codec, self.model_path)
            except OSError as error:
                self.logger.message(f"model not saved at step {step}, training continues: {error}")
        try:
            self.store.save(step, state, score, self.monitor.protected_steps)
        except CheckpointError as error:
            self.logger.message(f"checkpoint not saved, training continues: {error}")
        else:
            self.logger.saved(step, best=self.store.best_step == step)

    def check_saved(self, step: int) -> None:
        """Checks that there is a checkpoint of `step`, the last of the run.

        Raises:
            CheckpointError: Its write has failed.
        """
        steps = self.store.steps() if self.processes.is_main else {step}
        if step not in steps:
            last = f"the last checkpoint is that of step {max(steps)}" if steps else "there is no checkpoint"
            raise CheckpointError(
                f"step {step}, the last of the run, could not be saved; {last}: free space on the disk, then run the "
                f"same command again: {self.resume_command}"
            )

    def describe(self, step: int) -> str:
        """For a run that stops at `step`: what is saved, and how to resume."""
        steps = self.store.steps()
        saved = f"saved at step {step}"
        if step not in steps:
            last = f"the last checkpoint is that of step {max(steps)}" if steps else "there is no checkpoint"
            saved = f"stopped at step {step}; {last}"
        return f"{saved}; {'resume' if steps else 'start again'} with: {self.resume_command}"

    def resume(self, trained: Trained) -> bool:
        """Loads the newest intact checkpoint, and removes later records from the log.

        Returns:
            Whether there is one; False at the start of a run.

        Raises:
            CheckpointError: No checkpoint can be read, or the processes read different ones.
        """
        self.logger.describe(command=self.resume_command)
        checkpoint = self.store.load_newest()
        steps = self.processes.all_gather_object(None if checkpoint is None else checkpoint.step)
        if len(set(steps)) > 1:
            raise CheckpointError(f"the processes read checkpoints of different steps in {self.store.folder}: {steps}")
        if checkpoint is None:
            self.logger.truncate_after(-1)  # records of a run that was stopped before its first checkpoint
            return False
        if self.processes.is_main:
            self.store.update_best(checkpoint.step)
        self.logger.truncate_after(checkpoint.step)
        self.logger.describe(step=checkpoint.step, seconds=round(checkpoint.state["seconds"], 3))
        self.logger.message(f"resumed at step {checkpoint.step}")
        trained.load_state_dict(checkpoint.state)
        return True

    def roll_back(self, trained: Trained, error: DivergenceError) -> Rollback:
        """Returns to the newest good checkpoint, which is saved again with lower learning rates.

        Later checkpoints and later records in the log are removed. A kill during a rollback is harmless. The run
        resumes from the good checkpoint, or diverges again and repeats the rollback.

        Raises:
            DivergenceError: No further rollback is possible.
            CheckpointError: The checkpoint is corrupt.
        """
        available = self.processes.broadcast_object(self.store.steps())
        rollback = self.monitor.choose_rollback(error, trained.step, available)
        checkpoint = self.store.load(rollback.step)
        self.logger.truncate_after(rollback.step)
        if self.processes.is_main:
            self.store.remove_after(rollback.step)
        seconds = trained.seconds
        trained.load_state_dict(checkpoint.state)
        trained.seconds = seconds  # training time of the removed steps counts
        self.monitor.rolled_back(rollback)
        self.save(trained, None)
        return rollback
