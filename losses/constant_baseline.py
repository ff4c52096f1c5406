"""Losses of the best constant prediction: what each loss is worth without a model."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from losses.protocols import HasConstantBaseline, Loss

__all__ = ["constant_baselines"]


def constant_baselines(losses: Mapping[str, Loss], batches: Iterable[Tensor]) -> dict[str, float]:
    """Mean over batches of the loss of the best constant prediction, computed from the data alone.

    Each batch has its own constant. With small batches the mean is therefore below the loss of one constant for all
    data. Losses without a method `constant_baseline` are left out: adversarial losses have no such value, and SI-SDR
    is the same for every constant.

    Args:
        losses: Losses by name.
        batches: Audio on the device of the losses.

    Shape: batches [B, C, T] each -> baselines by name.

    Raises:
        ValueError: There is no batch.
    """
    measurable = {name: loss for name, loss in losses.items() if isinstance(loss, HasConstantBaseline)}
    if not measurable:
        return {}
    values = [torch.stack([loss.constant_baseline(batch) for loss in measurable.values()]) for batch in batches]
    if not values:
        raise ValueError("expected at least one batch to compute constant baselines from, got none")
    return dict(zip(measurable, torch.stack(values).double().mean(dim=0).tolist(), strict=True))
