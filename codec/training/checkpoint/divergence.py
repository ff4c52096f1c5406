"""What a run does about its own figures: it names what is wrong, once, and goes back when it diverges."""

from collections.abc import Callable, Mapping
from typing import Any

from codec.evaluation.report.diagnostics import DIVERGENCE, Diagnostics
from codec.training.config import RollbackConfig

__all__ = ["DivergenceError", "DivergenceMonitor", "TrainingError"]

# A checkpoint counts as good when so many lines have been sound since, and a validation: it may have been written
# after the onset of a divergence, which the mean over its own line does not show yet.
_PROBATION = 6


class TrainingError(RuntimeError):
    """Training cannot go on; the message is a diagnosis in one sentence."""


class DivergenceError(TrainingError):
    """Training cannot go on from here, but may from an earlier step at a lower learning rate."""


class DivergenceMonitor:
    """Watches the log of a run, and knows which of its checkpoints are sound.

    Two checkpoints matter to it, apart from the newest: the newest one that is known to be good, and one after it that
    is on probation. All of its state is in the checkpoints, so that a run that is stopped at any moment decides as if
    it had not been.

    Args:
        message: Gets one sentence for each condition, the first time it is present.

    Attributes:
        good: Step of the newest checkpoint that is known to be sound; None before there is one.
        returns: How often the run has gone back.
    """

    def __init__(self, config: RollbackConfig, message: Callable[[str], None]) -> None:
        self.config = config
        self.rollbacks = 0
        self.good_step: int | None = None
        self._on_probation: int | None = None
        self._sound_lines = 0  # since that one
        self._validated = -1  # step of the newest validation whose score was sound
        self._diagnostics = Diagnostics()
        self._resumed: int | None = None
        self._message = message
        self._said: set[str] = set()

    @property
    def lr_factor(self) -> float:
        """Factor of the learning rates."""
        return self.config.lr_factor**self.rollbacks

    @property
    def protected_steps(self) -> set[int]:
        """Steps of the checkpoints that have to be kept."""
        return {step for step in (self.good_step, self._on_probation) if step is not None}

    def update(self, split: str, step: int, values: Mapping[str, float], seconds: float = 0.0) -> None:
        """Takes a line of the log.

        Raises:
            DivergenceError: The run diverges, and it is the doctor's to do something about it.
        """
        self._diagnostics.update({"split": split, "step": step, "seconds": seconds, **values})
        for name, sentence in self._diagnostics.active.items():
            if name not in self._said and not (name == DIVERGENCE and self.config.max_rollbacks):
                self._said.add(name)
                self._message(sentence)
        self._judge(split, step)
        if self.config.max_rollbacks and DIVERGENCE in self._diagnostics.active:
            raise DivergenceError(self._diagnostics.active[DIVERGENCE])

    def _judge(self, split: str, step: int) -> None:
        if self._diagnostics.suspicious:
            self._on_probation = None
        elif split == "train":
            self._sound_lines += 1
        else:
            self._validated = step
        waiting = self._on_probation
        if waiting is not None and self._sound_lines >= _PROBATION and self._validated >= waiting:
            self.good_step, self._on_probation = waiting, None

    def register_checkpoint(self, step: int) -> None:
        """A checkpoint of this step is about to be written, and will hold that it was."""
        if self.good_step is None:
            self.good_step = step  # the first: nothing has gone wrong before it
        elif self._on_probation is None and step > self.good_step and not self._diagnostics.suspicious:
            self._on_probation, self._sound_lines = step, 0

    def resumed(self, step: int) -> None:
        """The run goes on from the checkpoint of this step, which has to do where the good one is gone: a run that has
        ended keeps its last ones only."""
        self._resumed = step

    def choose_rollback(self, divergence: DivergenceError, step: int, there: set[int]) -> tuple[int, int]:
        """Where the run is to go on.

        Args:
            step: Where it is.
            there: Steps of the checkpoints that exist.

        Returns:
            The step to go back to, and how many returns this makes.

        Raises:
            DivergenceError: There is no return; the message says why.
        """
        sound = [each for each in there if self.good_step is not None and each <= self.good_step and each < step]
        sound = sound or [each for each in there if each == self._resumed and each < step]
        if not self.config.max_rollbacks or not sound:
            raise divergence
        if self.rollbacks >= self.config.max_rollbacks:
            raise DivergenceError(
                f"{divergence} It was taken back to an earlier checkpoint {self.rollbacks} times, in the end with "
                f"{self.lr_factor:.2g} times the learning rates, and that did not help."
            )
        returns = self.rollbacks + 1
        self._message(
            f"{divergence} Going back to step {max(sound)} with {self.config.lr_factor**returns:.2g} times the "
            f"learning rates (return {returns} of {self.config.max_rollbacks})."
        )
        return max(sound), returns

    def rolled_back(self, step: int, returns: int) -> None:
        """The run is as it was at this step; what the checkpoint says about returns is older."""
        self.good_step, self.rollbacks, self._on_probation = step, returns, None

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {
            "rollbacks": self.rollbacks,
            "good": self.good_step,
            "on_probation": self._on_probation,
            "sound_lines": self._sound_lines,
            "validated": self._validated,
            "diagnostics": self._diagnostics.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.rollbacks, self.good_step = state["rollbacks"], state["good"]
        self._on_probation, self._sound_lines = state["on_probation"], state["sound_lines"]
        self._validated = state["validated"]
        self._diagnostics.load_state_dict(state["diagnostics"])
