"""A run on its disk: where it is gets written, and where it was is found again, after a stop or when it diverged."""

from collections.abc import Mapping
from typing import Any, Protocol

from safetensors import SafetensorError

from codec.model import Codec
from codec.model_file import save_model
from codec.training.checkpoint.divergence import DivergenceError, DivergenceMonitor
from codec.training.checkpoint.store import CheckpointError, CheckpointStore
from codec.training.distributed import Processes
from codec.training.logging.run_logger import RunLogger
from codec.training.logging.silent_logger import SilentLogger
from codec.training.validation import Validation

__all__ = ["Checkpointer"]


class Run(Protocol):
    """What has a place in time, and a state that leads on from there."""

    step: int
    seconds: float

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Checkpointer:
    """Saves a run, resumes it and takes it back.

    All processes of a run call the same methods; the first one writes.

    Args:
        doctor: Knows which checkpoints are good; a part of the run's state.
    """

    def __init__(
        self,
        store: CheckpointStore,
        doctor: DivergenceMonitor,
        validation: Validation,
        logger: RunLogger | SilentLogger,
        processes: Processes,
    ) -> None:
        self.store, self.divergence_monitor, self.validation = store, doctor, validation
        self.logger, self.processes = logger, processes

    def save(self, run: Run, model: Codec, score: float | None, done: bool) -> None:
        """Writes the model, and a checkpoint with this step's score if there is one; goes on if the disk is full."""
        self.divergence_monitor.register_checkpoint(run.step)
        if not self.processes.is_main:
            return
        try:
            # The model first: a run that has its last checkpoint makes no further step, so nothing would write it.
            try:
                if run.step:  # an untrained one is of no use
                    save_model(model, self.store.folder.parent / "model.safetensors")
            finally:
                self.store.save(
                    run.step, run.state_dict(), score, () if done else self.divergence_monitor.protected_steps
                )
        except (CheckpointError, OSError, SafetensorError) as error:
            self.logger.message(f"not saved at step {run.step}, training goes on: {error}")

    def restore(self, run: Run) -> bool:
        """Goes on from the newest sound checkpoint; returns whether there was one.

        Raises:
            CheckpointError: None can be read, or the processes find different ones.
        """
        found = self.store.load_newest()
        steps = self.processes.all_gather_object(None if found is None else found.step)
        if len(set(steps)) > 1:
            raise CheckpointError(f"the processes find different checkpoints in {self.store.folder}, of steps {steps}")
        if found is None:
            self.logger.truncate_after(-1)  # a run that was stopped before its first checkpoint begins anew
            return False
        if self.processes.is_main:
            self.store.complete(found.step)
        run.load_state_dict(found.state)
        self.divergence_monitor.resumed(run.step)
        self.logger.truncate_after(run.step)
        self.logger.message(f"resumed at step {run.step}")
        return True

    def go_back(self, run: Run, model: Codec, divergence: DivergenceError) -> None:
        """To a good checkpoint, which is written anew with the lower rate.

        A kill on the way leaves that checkpoint as it was or as it is to be, and some of the later ones or none: the
        run diverges again or goes on from here, and in either case ends with the same bits.

        Raises:
            DivergenceError: There is nowhere to go back to; the message says why.
        """
        step, returns = self.divergence_monitor.choose_rollback(divergence, run.step, self._there())
        seconds = run.seconds  # were spent
        run.load_state_dict(self.store.load(step).state)
        run.seconds = seconds
        self.divergence_monitor.rolled_back(step, returns)
        self.logger.truncate_after(step)
        if self.processes.is_main:
            self.store.forget_after(step)
            self.validation.forget_after(step)
        self.save(run, model, None, done=False)

    def _there(self) -> set[int]:
        return self.processes.broadcast_object(self.store.steps())
