"""What losses are worth without a model: their value at the best constant prediction."""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["constant_baselines"]


@runtime_checkable
class _HasPrior(Protocol):
    def constant_baseline(self, reference: Tensor) -> Tensor:
        """Shape: reference [B, C, T] -> scalar."""


def constant_baselines(losses: Mapping[str, nn.Module], batches: Iterable[Tensor]) -> dict[str, float]:
    """Mean over batches of the loss of the best constant prediction, from the data alone.

    Every batch takes a constant of its own, so with small batches the mean lies below what one constant for all
    the data would get. Losses without a method `prior`, such as SISDR, which no constant can satisfy better than
    another, and adversarial ones, are left out.

    Args:
        losses: Name -> loss.
        batches: Audio, on the device of the losses.

    Shape: batches [B, C, T] each -> name -> prior.

    Raises:
        ValueError: There is no batch.
    """
    with_prior = {name: loss for name, loss in losses.items() if isinstance(loss, _HasPrior)}
    if not with_prior:
        return {}
    values = [torch.stack([loss.constant_baseline(batch) for loss in with_prior.values()]) for batch in batches]
    if not values:
        raise ValueError("constant_baselines want one batch or more, got none")
    return dict(zip(with_prior, torch.stack(values).double().mean(dim=0).tolist(), strict=True))
