"""Checks between parts that are configured apart, made before any audio is read."""

from collections.abc import Mapping

from torch import nn

from balancer import Balancer
from codec.training.adversarial import ADVERSARIAL_LOSSES, AdversarialTraining

__all__ = ["check_loss_names", "check_windows"]


def check_loss_names(
    losses: Mapping[str, nn.Module], adversarial: AdversarialTraining | None, balancer: Balancer
) -> None:
    """Every loss has a weight and every weight a loss.

    Raises:
        ValueError: Names both sides.
    """
    names = [*losses, *(ADVERSARIAL_LOSSES if adversarial is not None else ())]
    if sorted(names) != sorted(balancer.weights):
        raise ValueError(
            f"losses and weights must have the same names: there are losses {', '.join(names)}"
            f"{'' if adversarial is not None else ' and no discriminator'}, "
            f"and weights for {', '.join(balancer.weights)}"
        )


def check_windows(
    losses: Mapping[str, nn.Module], adversarial: AdversarialTraining | None, segment_samples: int
) -> None:
    """A segment holds the largest window of every loss and of the discriminator.

    Raises:
        ValueError: Names the loss, its window and the segment.
    """
    parts = dict(losses) | ({} if adversarial is None else {"the discriminator": adversarial.discriminator})
    for name, part in parts.items():
        # A loss can do with less by reflecting the signal, but then it sees no whole window of real audio.
        needed = max(getattr(part, "minimum_samples", 1), getattr(part, "window_samples", 1))
        if segment_samples < needed:
            raise ValueError(
                f"a segment has {segment_samples} samples, but {name} needs at least {needed}: "
                "raise data.segment_seconds or use smaller windows"
            )
