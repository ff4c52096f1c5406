"""Detects that training diverges, and chooses the checkpoint to roll back to."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from codec.evaluation.report.diagnostics import DIVERGENCE, Diagnostics
from codec.training.config import RollbackConfig

__all__ = ["DivergenceError", "DivergenceMonitor", "Rollback", "TrainingError"]

# Records that must be in range after a checkpoint before it counts as good. A checkpoint may be written after the onset
# of a divergence that the mean over its log interval does not show yet.
_RECORDS_IN_RANGE = 6


class TrainingError(RuntimeError):
    """Training cannot continue. The message says why and what to change."""


class DivergenceError(TrainingError):
    """Training diverged. It may continue from an earlier checkpoint with lower learning rates."""


class Rollback(NamedTuple):
    """A return to an earlier checkpoint."""

    step: int
    number: int  # 1 for the first rollback of the run


class DivergenceMonitor:
    """Reads the metrics of a run, reports diagnostics once, and raises `DivergenceError`.

    It tracks two checkpoints besides the newest. The good one is followed by records and a validation that are all in
    range. The candidate is newer and becomes the good one on the same condition. Both must be kept on the disk.

    Args:
        config: With `max_rollbacks=0` a divergence is reported like any other diagnostic and never raised.
        message: Called with one sentence for each diagnostic, the first time it is present.

    Attributes:
        rollbacks: Number of rollbacks so far.
        good_step: Step of the good checkpoint, None before the first checkpoint.
        candidate_step: Step of the candidate, None if there is none.
    """

    def __init__(self, config: RollbackConfig, message: Callable[[str], None]) -> None:
        self.config = config
        self.rollbacks = 0
        self.good_step: int | None = None
        self.candidate_step: int | None = None
        self._records_in_range = 0  # since the candidate was saved
        self._validated_step = -1  # of the newest validation in range
        self._diagnostics = Diagnostics()
        self._message = message
        self._reported: set[str] = set()

    @property
    def lr_factor(self) -> float:
        """Factor of all learning rates after the rollbacks so far."""
        return self.config.lr_factor**self.rollbacks

    @property
    def protected_steps(self) -> set[int]:
        """Steps of the checkpoints that must be kept."""
        return {step for step in (self.good_step, self.candidate_step) if step is not None}

    def update(self, split: str, step: int, values: Mapping[str, float], seconds: float = 0.0) -> None:
        """Reads one record of the log.

        Args:
            split: "train" or "validation".
            step: Optimizer steps done.
            values: Metric name to value.
            seconds: Training time so far.

        Raises:
            DivergenceError: Training diverges and rollbacks are enabled.
        """
        self._diagnostics.update({"split": split, "step": step, "seconds": seconds, **values})
        for name, sentence in self._diagnostics.active.items():
            if name not in self._reported and not (name == DIVERGENCE and self.config.max_rollbacks):
                self._reported.add(name)
                self._message(sentence)
        self._update_good_step(split, step)
        if self.config.max_rollbacks and DIVERGENCE in self._diagnostics.active:
            raise DivergenceError(self._diagnostics.active[DIVERGENCE])

    def _update_good_step(self, split: str, step: int) -> None:
        if self._diagnostics.suspicious:
            self.candidate_step = None
        elif split == "train":
            self._records_in_range += 1
        else:
            self._validated_step = step
        candidate = self.candidate_step
        if candidate is None:
            return
        if self._records_in_range >= _RECORDS_IN_RANGE and self._validated_step >= candidate:
            self.good_step, self.candidate_step = candidate, None

    def register_checkpoint(self, step: int) -> None:
        """Must be called before the checkpoint of `step` is written, because that checkpoint holds this state."""
        if self.good_step is None:
            self.good_step = step  # the first checkpoint precedes every divergence
        elif self.candidate_step is None and step > self.good_step and not self._diagnostics.suspicious:
            self.candidate_step, self._records_in_range = step, 0

    def choose_rollback(self, error: DivergenceError, step: int, available: Collection[int]) -> Rollback:
        """The next rollback, to the newest good checkpoint before `step`.

        Args:
            error: The divergence.
            step: Optimizer steps done.
            available: Steps of the existing checkpoints.

        Raises:
            DivergenceError: Rollbacks are disabled or used up, or there is no good checkpoint.
        """
        good = [each for each in available if self.good_step is not None and each <= self.good_step and each < step]
        if not self.config.max_rollbacks or not good:
            raise error
        if self.rollbacks >= self.config.max_rollbacks:
            raise DivergenceError(
                f"{error} Training was rolled back {self.rollbacks} times, finally with {self.lr_factor:.2g} times the "
                "learning rates, and diverged again."
            )
        rollback = Rollback(max(good), self.rollbacks + 1)
        self._message(
            f"{error} Rolling back to step {rollback.step} with {self.config.lr_factor**rollback.number:.2g} times the "
            f"learning rates (rollback {rollback.number} of {self.config.max_rollbacks})."
        )
        return rollback

    def rolled_back(self, rollback: Rollback) -> None:
        """Must be called after the state of the checkpoint was loaded: that state does not count this rollback."""
        self.good_step, self.rollbacks, self.candidate_step = rollback.step, rollback.number, None

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {
            "rollbacks": self.rollbacks,
            "good_step": self.good_step,
            "candidate_step": self.candidate_step,
            "records_in_range": self._records_in_range,
            "validated_step": self._validated_step,
            "diagnostics": self._diagnostics.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.rollbacks, self.good_step = state["rollbacks"], state["good_step"]
        self.candidate_step, self._records_in_range = state["candidate_step"], state["records_in_range"]
        self._validated_step = state["validated_step"]
        self._diagnostics.load_state_dict(state["diagnostics"])
