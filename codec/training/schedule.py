"""The codec's optimizer, and the learning rates of all optimizers over the run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.optim import Optimizer

from codec.model import Codec
from codec.training.config import LRSchedule

__all__ = ["LRScheduler", "make_codec_optimizer"]


def make_codec_optimizer(
    make: Callable[[Iterable[Any]], Optimizer], codec: Codec, encoder_lr_factor: float
) -> Optimizer:
    """An optimizer of all weights; the encoder's learning rate is `encoder_lr_factor` times that of the others."""
    encoder, others = [*codec.encoder.parameters()], [*codec.decoder.parameters(), *codec.quantizer.parameters()]
    if encoder_lr_factor == 1:
        return make([*encoder, *others])
    optimizer = make([{"params": encoder}, {"params": others}])
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
