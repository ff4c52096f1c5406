"""The codec's optimizer, and the learning rates of all optimizers over the run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from codec.training.config import LRSchedule

__all__ = ["LRScheduler", "make_codec_optimizer"]


def make_codec_optimizer(
    make: Callable[[Iterable[Any]], Optimizer], encoder: nn.Module, decoder: nn.Module, encoder_lr_factor: float
) -> Optimizer:
    """An optimizer of both networks; the encoder's learning rate is `encoder_lr_factor` times the decoder's."""
    if encoder_lr_factor == 1:
        return make([*encoder.parameters(), *decoder.parameters()])
    optimizer = make([{"params": [*encoder.parameters()]}, {"params": [*decoder.parameters()]}])
    optimizer.param_groups[0]["lr"] *= encoder_lr_factor
    return optimizer


class LRScheduler:
    """Sets the learning rates of several optimizers, relative to the rates that they were made with."""

    def __init__(self, schedule: LRSchedule, optimizers: Sequence[Optimizer]) -> None:
        self._schedule = schedule
        # Rates by position: an optimizer that loads a state replaces its groups.
        self._initial = [(optimizer, [group["lr"] for group in optimizer.param_groups]) for optimizer in optimizers]

    def set(self, progress: float, factor: float = 1.0) -> None:
        """Sets all rates to their initial value, times the schedule at `progress` in [0, 1], times `factor`."""
        factor *= self._schedule.factor(progress)
        for optimizer, rates in self._initial:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
