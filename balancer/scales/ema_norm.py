"""EnCodec's scale: each gradient divided by a moving average of its length (Défossez et al. 2022, section 3.4)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["EmaNorm"]


class EmaNorm(nn.Module):
    """R / (sum of the active weights) / (average length of the gradient).

    With the user's weights l the combined gradient is R * sum_i (l_i / sum l) g_i / <|g_i|>, equation 4 of the paper.
    The averages are corrected for their start, as in Adam, and belong to the state.

    Buffers:
        total [M], count [M]: discounted sum of lengths and of ones; their quotient is the average.

    Args:
        decay: beta of the moving average; 0 is the length of this step alone.
        total_norm: R, the length the weights share out.
        norm_over: `item` averages the length over batch items (AudioCraft's `per_batch_item`), `batch` takes one
            length over everything.
        batch_invariant: Undo the growth with the batch size B of the length all items together get: B when each has
            length R, sqrt(B) when the batch has. AudioCraft does not, so its parameter gradients grow with the batch
            while those of the commitment loss, a mean, do not.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True
    total: Tensor
    count: Tensor

    def __init__(
        self,
        decay: float = 0.999,
        total_norm: float = 1.0,
        norm_over: Literal["item", "batch"] = "item",
        batch_invariant: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        if not 0 < total_norm < float("inf"):
            raise ValueError(f"total_norm must be positive, got {total_norm}")
        if norm_over not in ("item", "batch"):
            raise ValueError(f"norm_over must be item or batch, got {norm_over!r}")
        self.decay = decay
        self.total_norm = total_norm
        self.norm_over = norm_over
        self.batch_invariant = batch_invariant

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("total", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        norms = statistics.item_norms if self.norm_over == "item" else statistics.norms
        kept, fresh = statistics.remembered(self.decay)
        self.total[index] = kept * self.total[index] + fresh * norms
        self.count[index] = kept * self.count[index] + fresh
        average = self.total[index] / self.count[index]
        share = self.total_norm / statistics.user_weights.sum()
        if self.batch_invariant:
            share = share / statistics.batch_size ** (1.0 if self.norm_over == "item" else 0.5)
        return share / (average + 1e-12)
