"""Gradient surgery: what of a gradient opposes another is projected out (Yu et al. 2020, algorithm 1)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["PCGrad"]


class PCGrad(nn.Module):
    """d = sum_i g_i^PC, where g_i^PC is g_i less its projection on every g_j that it opposes, one j after the other.

    The projections are on the original g_j, in an order that is drawn for every i and step, and summed as in the
    paper; the authors' code averages. A row is kept as its coefficients on the m rows, so the Gramian says it all.
    Projections only shorten: |d| <= sum_i |g_i|. Larger user weights make larger rows, as in a weighted sum.

    The order is drawn from an own generator, which is part of the state.

    Args:
        seed: Of the order.
    """

    needs_gradients = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def prepare(self, weights: Mapping[str, float]) -> None:
        pass

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        gramian = statistics.gramian.cpu()
        rows = torch.eye(len(gramian), dtype=torch.float64)
        for i, row in enumerate(rows):
            for j in torch.randperm(len(rows), generator=self.generator).tolist():
                product = gramian[j] @ row
                if j != i and product < 0:
                    row[j] -= product / gramian[j, j]
        return rows.sum(0).to(statistics.gramian.device)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())
