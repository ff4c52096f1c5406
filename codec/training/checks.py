"""Checks between parts that are configured separately. They run before any audio is read."""

from collections.abc import Mapping

from torch import nn

from balancer import Balancer
from codec.training.adversarial import AdversarialTraining
from losses import segment_samples

__all__ = ["check_loss_names", "check_parts", "check_windows"]


def check_loss_names(
    losses: Mapping[str, nn.Module], adversarial: AdversarialTraining | None, balancer: Balancer
) -> None:
    """Checks that every loss has a weight and every weight a loss.

    Raises:
        ValueError: Names the losses and the weights.
    """
    names = [*losses, *(adversarial.loss.names if adversarial is not None else ())]
    if sorted(names) != sorted(balancer.weights):
        raise ValueError(
            "losses and balancer weights must have the same names, got "
            f"losses {', '.join(names)}{'' if adversarial is not None else ' (no discriminator)'} "
            f"and weights {', '.join(balancer.weights)}"
        )


def check_windows(losses: Mapping[str, nn.Module], adversarial: AdversarialTraining | None, num_samples: int) -> None:
    """Checks that a training segment is at least as long as every window of the losses and the discriminator.

    Raises:
        ValueError: Names the part, its window and the segment.
    """
    parts = dict(losses) | ({} if adversarial is None else {"the discriminator": adversarial.discriminator})
    for name, part in parts.items():
        needed = segment_samples(part)
        if num_samples < needed:
            raise ValueError(
                f"{name} needs segments of at least {needed} samples, got {num_samples}: "
                "raise data.segment_seconds or use smaller windows"
            )


def check_parts(accumulate: int, batch_size: int, world_size: int) -> None:
    """Checks that the batch of each process can be computed in equal parts.

    Raises:
        ValueError: It cannot.
    """
    if batch_size % (accumulate * world_size):
        factors = {"trainer.accumulate": accumulate, "the number of processes": world_size}
        named = " times ".join(f"{name}, {factor}" for name, factor in factors.items() if factor > 1)
        raise ValueError(f"data.batch_size must be a multiple of {named}, got {batch_size}")
