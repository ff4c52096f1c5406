"""Learning rates over a run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from codec.training.config import LearningRate

__all__ = ["Schedule", "codec_optimizer"]


def codec_optimizer(
    make: Callable[[Iterable[Any]], Optimizer], encoder: nn.Module, decoder: nn.Module, encoder_rate: float
) -> Optimizer:
    """An optimizer of both, whose rate for the encoder is `encoder_rate` times the decoder's."""
    if encoder_rate == 1:
        return make([*encoder.parameters(), *decoder.parameters()])
    optimizer = make([{"params": [*encoder.parameters()]}, {"params": [*decoder.parameters()]}])
    optimizer.param_groups[0]["lr"] *= encoder_rate
    return optimizer


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
