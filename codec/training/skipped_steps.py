"""Decides whether a step updates the codec, and counts the steps that do not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from balancer import Balanced
from codec.training.checkpoint.divergence import DivergenceError
from codec.training.distributed import Processes
from codec.training.interruptions import Interruptions

__all__ = ["SkippedSteps"]


class SkippedSteps:
    """Counts steps that were skipped because a loss or a gradient was not finite.

    Args:
        max_in_a_row: Number of consecutive skipped steps that counts as a divergence.
        processes: The processes that train together; a step that one of them must skip is skipped by all.
        interruptions: Its votes are taken together with those about the step.
        message: Called with a sentence for each skipped step.

    Attributes:
        total: Number of skipped steps of the run.
        in_a_row: Number of skipped steps since the last update.
    """

    def __init__(
        self, max_in_a_row: int, processes: Processes, interruptions: Interruptions, message: Callable[[str], None]
    ) -> None:
        self.max_in_a_row, self.message = max_in_a_row, message
        self.processes, self.interruptions = processes, interruptions
        self.total = self.in_a_row = 0

    def vote(self, balanced: Balanced, commitment: Tensor, gradient_norm: Tensor) -> tuple[str, ...]:
        """Names of what is not finite in any process. Also agrees on interruptions. Reads the device once.

        Shape: commitment [], gradient_norm [].
        """
        host = torch.cat([balanced.is_finite.view(1), self.interruptions.votes().to(balanced.is_finite.device)])
        values = torch.stack([commitment, gradient_norm])
        finite = (values - values) == 0  # `isfinite` takes twice as many kernels
        votes = torch.cat([finite, host.to(finite.device, non_blocking=True)])
        agreed = self.processes.all_reduce_and(votes).tolist()
        commitment_finite, gradient_finite, weights_finite, *no_interruption = agreed
        self.interruptions.agree(*no_interruption)
        if balanced.dropped or not weights_finite:
            return balanced.dropped or ("the balancer's weights",)
        if not commitment_finite:
            return ("commitment",)
        return () if gradient_finite else ("the codec's gradient",)

    def add(self, step: int, not_finite: Sequence[str]) -> None:
        """Counts a skipped step.

        Args:
            not_finite: Names of what was not finite.

        Raises:
            DivergenceError: It was one too many.
        """
        self.total += 1
        self.in_a_row += 1
        self.message(f"step {step} skipped: not finite: {', '.join(not_finite)}")
        if self.in_a_row >= self.max_in_a_row:
            raise DivergenceError(
                f"{self.in_a_row} steps in a row up to step {step} were not finite, the last in "
                f"{', '.join(not_finite)}: lower optimizer.codec.lr or set trainer.gradient_clip_norm."
            )

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]
