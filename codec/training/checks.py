"""Checks between parts that are configured separately. They run before any audio is read."""

from collections.abc import Mapping

from torch import nn

from balancer import Balancer
from codec.training.adversarial import ADVERSARIAL_LOSSES, AdversarialTraining

__all__ = ["check_loss_names", "check_windows"]


def check_loss_names(
    losses: Mapping[str, nn.Module], adversarial: AdversarialTraining | None, balancer: Balancer
) -> None:
    """Checks that every loss has a weight and every weight a loss.

    Raises:
        ValueError: Names the losses and the weights.
    """
    names = [*losses, *(ADVERSARIAL_LOSSES if adversarial is not None else ())]
    if sorted(names) != sorted(balancer.weights):
        raise ValueError(
            "losses and balancer weights must have the same names, got "
            f"losses {', '.join(names)}{'' if adversarial is not None else ' (no discriminator)'} "
            f"and weights {', '.join(balancer.weights)}"
        )


def check_windows(
    losses: Mapping[str, nn.Module], adversarial: AdversarialTraining | None, segment_samples: int
) -> None:
    """Checks that a training segment is at least as long as every window of the losses and the discriminator.

    Raises:
        ValueError: Names the part, its window and the segment.
    """
    parts = dict(losses) | ({} if adversarial is None else {"the discriminator": adversarial.discriminator})
    for name, part in parts.items():
        # A loss can pad a shorter signal by reflection, but then no window holds only real audio.
        needed = max(getattr(part, "minimum_samples", 1), getattr(part, "window_samples", 1))
        if segment_samples < needed:
            raise ValueError(
                f"{name} needs segments of at least {needed} samples, got {segment_samples}: "
                "raise data.segment_seconds or use smaller windows"
            )
