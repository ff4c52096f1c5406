"""Learning rates over a run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from codec.training.config import LRSchedule

__all__ = ["Schedule", "codec_optimizer"]


def codec_optimizer(
    make: Callable[[Iterable[Any]], Optimizer], encoder: nn.Module, decoder: nn.Module, encoder_lr_factor: float
) -> Optimizer:
    """An optimizer of both, whose rate for the encoder is `encoder_lr_factor` times the decoder's."""
    if encoder_lr_factor == 1:
        return make([*encoder.parameters(), *decoder.parameters()])
    optimizer = make([{"params": [*encoder.parameters()]}, {"params": [*decoder.parameters()]}])
    optimizer.param_groups[0]["lr"] *= encoder_lr_factor
    return optimizer


class Schedule:
    """Sets the learning rates of some optimizers, each from the rate it was made with.

    Args:
        schedule: The factor over the run.
    """

    def __init__(self, schedule: LRSchedule, optimizers: Sequence[Optimizer]) -> None:
        self._schedule = schedule
        # Not the groups themselves: an optimizer that loads a state has others.
        self._rates = [(optimizer, [group["lr"] for group in optimizer.param_groups]) for optimizer in optimizers]

    def set(self, progress: float, scale: float = 1.0) -> None:
        """To `scale` times what is due at `progress` in [0, 1] of the run."""
        factor = scale * self._schedule.factor(progress)
        for optimizer, rates in self._rates:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
