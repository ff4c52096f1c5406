"""Learning rates over a run."""

from collections.abc import Sequence

from torch.optim import Optimizer

from codec.training.plan import LearningRate

__all__ = ["Schedule"]


class Schedule:
    """Sets the learning rates of some optimizers, each from the rate it was made with.

    Args:
        plan: The factor over the run.
    """

    def __init__(self, plan: LearningRate, optimizers: Sequence[Optimizer]) -> None:
        self._plan = plan
        # Not the groups themselves: an optimizer that loads a state has others.
        self._rates = [(optimizer, [group["lr"] for group in optimizer.param_groups]) for optimizer in optimizers]

    def set(self, progress: float, scale: float = 1.0) -> None:
        """To `scale` times what is due at `progress` in [0, 1] of the run."""
        factor = scale * self._plan.factor(progress)
        for optimizer, rates in self._rates:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
