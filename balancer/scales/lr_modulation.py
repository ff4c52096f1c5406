"""More weight to losses that stall on held-out audio."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["LRModulation"]


class LRModulation(nn.Module):
    """k_i, raised by validation: min(k_max, rho k_i) while loss i stalls on held-out audio, else max(1, k_i / rho).

    A loss stalls once `patience` validations in a row have brought no new minimum. This is the plateau rule of
    learning-rate schedules turned upwards and given to each loss; no paper defines it. k_i would be a learning rate if
    every loss had an optimizer of its own. With one Adam for all it is a weight: raised alike, the k_i cancel.

    Args:
        rho: Factor of one raise.
        k_max: Largest k.
        patience: Validations without a new minimum.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        k [M]; best [M], least held-out loss; stalled [M], validations since.
    """

    needs_gradients = False
    k: Tensor
    best: Tensor
    stalled: Tensor

    def __init__(self, rho: float = 1.25, k_max: float = 4.0, patience: int = 3) -> None:
        super().__init__()
        if not 1 < rho < math.inf or not 1 < k_max < math.inf:
            raise ValueError(f"rho and k_max must be above 1 and finite, got {rho} and {k_max}")
        if patience < 1:
            raise ValueError(f"patience must be 1 or more, got {patience}")
        self.rho, self.k_max, self.patience = rho, k_max, patience

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.names = list(weights)
        for name, start in (("k", 1.0), ("best", math.inf), ("stalled", 0.0)):
            self.register_buffer(name, torch.full((len(weights),), start, dtype=torch.float64))

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Adapts k of the given losses, bar values that are not finite; see `balancer.strategy.UsesValidation`.

        Raises:
            ValueError: A name belongs to no loss.
        """
        unknown = sorted(set(losses) - set(self.names))
        if unknown:
            raise ValueError(f"held-out losses must be among {self.names}, got {', '.join(unknown)}")
        for name, loss in losses.items():
            if math.isfinite(loss):
                self._adapt(self.names.index(name), loss)

    def _adapt(self, i: int, loss: float) -> None:
        improved = loss < self.best[i].item()
        self.best[i] = min(loss, self.best[i].item())
        self.stalled[i] = 0 if improved else self.stalled[i] + 1
        stalls = self.stalled[i].item() >= self.patience
        k = self.k[i].item()
        self.k[i] = min(self.k_max, k * self.rho) if stalls else max(1.0, k / self.rho)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        return self.k[statistics.index]
