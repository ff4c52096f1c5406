"""Larger weights for losses that stall in validation. There is no published source."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.checks import check_names, check_range
from balancer.statistics import Statistics

__all__ = ["LRModulation"]


class LRModulation(nn.Module):
    """k_i, which becomes min(k_max, rho k_i) while loss i stalls in validation, else max(1, k_i / rho).

    A loss stalls after `patience` validations without a new minimum. This is the plateau rule of learning-rate
    schedules with an increase instead of a decrease, applied to each loss. With one optimizer per loss, k_i would be a
    learning rate. With a common Adam it is a weight: if all k_i are equal, they cancel.

    Args:
        rho: Factor of one increase.
        k_max: Largest k.
        patience: Validations without a new minimum before an increase.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        k [M]: The factors.
        best [M]: Smallest validation losses.
        stalled [M]: Validations since the last minimum.
    """

    needs_gradients = False
    k: Tensor
    best: Tensor
    stalled: Tensor

    def __init__(self, rho: float = 1.25, k_max: float = 4.0, patience: int = 3) -> None:
        super().__init__()
        check_range("(1, inf)", rho=rho, k_max=k_max)
        check_range("[1, inf)", patience=patience)
        self.rho, self.k_max, self.patience = rho, k_max, patience

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        for name, start in (("k", 1.0), ("best", math.inf), ("stalled", 0.0)):
            self.register_buffer(name, torch.full((len(weights),), start, dtype=torch.float64))

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Updates k of the given losses. Values that are not finite are ignored.

        Raises:
            ValueError: A name is not the name of a loss.
        """
        check_names(losses, self.weights, "validation losses")
        for name, loss in losses.items():
            if math.isfinite(loss):
                self._update(list(self.weights).index(name), loss)

    def _update(self, i: int, loss: float) -> None:
        improved = loss < self.best[i].item()
        self.best[i] = min(loss, self.best[i].item())
        self.stalled[i] = 0 if improved else self.stalled[i] + 1
        stalls = self.stalled[i].item() >= self.patience
        k = self.k[i].item()
        self.k[i] = min(self.k_max, k * self.rho) if stalls else max(1.0, k / self.rho)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return self.k[statistics.index]
