"""Gradient sign dropout: every element of the output follows one sign, drawn at random (Chen et al. 2020)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["GradDrop"]


class GradDrop(nn.Module):
    """Keeps, at each element, the gradients of one sign: the positive ones with probability P, else the negative ones.

    P = (1 + sum_i g_i / sum_i |g_i|) / 2, the purity of the sign (algorithm 1 of the paper, with the identity for f).
    The expected gradient is P * (sum of the positive) + (1 - P) * (sum of the negative). Larger user weights make
    larger rows, as in a weighted sum. A weight is between 0 and 1: |d| <= sum_i |g_i|.

    Draws come from an own generator on the CPU, part of the state, so that every device draws the same. Under data
    parallel training all ranks draw the same mask for their different batches.

    Args:
        leak: Loss -> share in [0, 1] of its gradient that passes whatever the draw; 0 for those not named.
        seed: Of the draws.

    Raises:
        ValueError: A leak is out of range, or (in `prepare`) names no loss.
    """

    needs_gradients = True
    leaks: Tensor

    def __init__(self, leak: Mapping[str, float] | None = None, seed: int = 0) -> None:
        super().__init__()
        self.leak = dict(leak or {})
        if not all(0 <= share <= 1 for share in self.leak.values()):
            raise ValueError(f"leaks must be in [0, 1], got {self.leak}")
        self.generator = torch.Generator().manual_seed(seed)

    def prepare(self, weights: Mapping[str, float]) -> None:
        unknown = [name for name in self.leak if name not in weights]
        if unknown:
            raise ValueError(f"leaks must be of the losses {', '.join(weights)}, got one for {', '.join(unknown)}")
        shares = torch.tensor([self.leak.get(name, 0.0) for name in weights])
        self.register_buffer("leaks", shares, persistent=False)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m, B * C * T] float32."""
        rows = statistics.jacobian
        drawn = torch.rand(rows.shape[1], generator=self.generator).to(rows.device)
        # P > drawn, with both sides times 2 sum_i |g_i|; where all gradients are zero any purity will do.
        positive = rows.sum(0) > (2 * drawn - 1) * rows.abs().sum(0)
        kept = ((rows > 0) == positive).to(rows.dtype)  # a zero counts as negative, as it makes no difference
        if not self.leak:
            return kept
        leaks = self.leaks[statistics.index].to(rows.dtype)[:, None]
        return leaks + (1 - leaks) * kept

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())
