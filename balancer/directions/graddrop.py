"""Gradient sign dropout (Chen et al. 2020, GradDrop): every element of the output keeps one sign, drawn at random."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.checks import check_names, check_range
from balancer.seeded_generator import SeededGenerator
from balancer.statistics import Statistics, like

__all__ = ["GradDrop"]


class GradDrop(nn.Module):
    """At each element, keeps the positive gradients with probability P and the negative ones otherwise.

    P = (1 + sum_i g_i / sum_i |g_i|) / 2 is the positive sign purity (algorithm 1 of the paper with the identity for
    f). The expected gradient is P * (sum of the positive) + (1 - P) * (sum of the negative). The user's weights
    multiply the rows, as in a weighted sum. Weights are between 0 and 1, so |d| <= sum_i |g_i|.

    In distributed training all processes draw the same mask for their different batches.

    Args:
        leak: Fraction in [0, 1] of a loss's gradient that passes regardless of the draw, by loss name; 0 by default.
        seed: Seed of the draws.

    Raises:
        ValueError: A leak is out of range, or (in `prepare`) has an unknown name.
    """

    needs_gradients = True
    leaks: Tensor

    def __init__(self, leak: Mapping[str, float] | None = None, seed: int = 0) -> None:
        super().__init__()
        self.leak = dict(leak or {})
        check_range("[0, 1]", **{f"leak.{name}": fraction for name, fraction in self.leak.items()})
        self.draws = SeededGenerator(seed)

    def prepare(self, weights: Mapping[str, float]) -> None:
        check_names(self.leak, weights, "leak")
        fractions = torch.tensor([self.leak.get(name, 0.0) for name in weights])
        self.register_buffer("leaks", fractions, persistent=False)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m, B * C * T] float32."""
        rows = statistics.jacobian
        draws = torch.rand(rows.shape[1], generator=self.draws.on(rows.device), device=rows.device)
        # P > draws with both sides multiplied by 2 sum_i |g_i|. If all gradients are zero, the result does not matter.
        positive = rows.sum(0) > (2 * draws - 1) * rows.abs().sum(0)
        kept = ((rows > 0) == positive).to(rows.dtype)  # zeros count as negative, which makes no difference
        if not self.leak:
            return kept
        leaks = like(self.leaks[statistics.index], rows)[:, None]
        return leaks + (1 - leaks) * kept
