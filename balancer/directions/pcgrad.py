"""PCGrad, gradient surgery (Yu et al. 2020, algorithm 1): components that oppose another gradient are removed."""

import torch
from torch import Tensor, nn

from balancer.seeded_generator import SeededGenerator
from balancer.statistics import Statistics

__all__ = ["PCGrad"]


class PCGrad(nn.Module):
    """d = sum_i g_i^PC, where g_i^PC is g_i minus its projection on every g_j that it opposes, one j after the other.

    The projections are on the original g_j, in an order that is drawn for every i and step. They are summed as in the
    paper; the authors' code averages. A row is represented by its coefficients on the m rows, so the Gramian is
    sufficient. Projections only shorten: |d| <= sum_i |g_i|. The user's weights multiply the rows, as in a weighted
    sum.

    Args:
        seed: Seed of the order.
    """

    needs_gradients = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.draws = SeededGenerator(seed)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        gramian = statistics.gramian.cpu()
        rows = torch.eye(len(gramian), dtype=torch.float64)
        for i, row in enumerate(rows):
            for j in torch.randperm(len(rows), generator=self.draws.generator).tolist():
                product = gramian[j] @ row
                if j != i and product < 0:
                    row[j] -= product / gramian[j, j]
        return rows.sum(0).to(statistics.gramian.device)
