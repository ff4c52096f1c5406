"""Dual-Balancing: gradients of the logarithms of the losses, brought to the length of the longest (Lin et al. 2023)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["DBMTL"]


class DBMTL(nn.Module):
    """max_k u_k / u_i / |L_i|, with u_i a moving average of |grad ln L_i| = |g_i| / |L_i|.

    The paper averages the gradients themselves, at the shared parameters. At the output of a decoder these belong to
    another batch in every step, so that their mean is meaningless: here their lengths are averaged.

    Only the common length depends on the values of the losses. What is smaller than `smallest_loss`, 0 included, is
    taken to be that large, and of what is negative the magnitude is taken, so that no sign turns; the paper is for
    positive losses.

    Buffers:
        total [M], count [M]: discounted sum of lengths and of ones; their quotient is the average.

    Args:
        decay: Of the moving average.
        smallest_loss: Bounds the common length by the largest |g_i| / smallest_loss.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True
    total: Tensor
    count: Tensor

    def __init__(self, decay: float = 0.9, smallest_loss: float = 1e-3) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        if not 0 < smallest_loss < float("inf"):
            raise ValueError(f"smallest_loss must be positive, got {smallest_loss}")
        self.decay = decay
        self.smallest_loss = smallest_loss

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("total", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        values = statistics.losses.abs().clamp_min(self.smallest_loss)
        kept, fresh = statistics.remembered(self.decay)
        self.total[index] = kept * self.total[index] + fresh * (statistics.norms / values)
        self.count[index] = kept * self.count[index] + fresh
        lengths = self.total[index] / self.count[index]
        return lengths.max() / lengths / values
