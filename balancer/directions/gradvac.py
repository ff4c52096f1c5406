"""Gradient Vaccine (Wang et al. 2021, GradVac): pairs of gradients are turned towards their average cosine."""

import math
import sys
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from balancer.checks import check_range
from balancer.seeded_generator import SeededGenerator
from balancer.solvers import Array
from balancer.statistics import Statistics

__all__ = ["GradVac"]

_TINY = sys.float_info.min
_SMALLEST_SINE = 1e-6  # cosines of float32 gradients do not resolve smaller angles


class GradVac(nn.Module):
    """d = sum_i g_i', where g_i' is g_i plus multiples of the g_j that raise their cosine to its moving average.

    With p the cosine of g_i' and g_j, and t_ij < 1 its moving average, if p < t_ij

        g_i' += |g_i'| (t_ij sqrt(1 - p^2) - p sqrt(1 - t_ij^2)) / (|g_j| sqrt(1 - t_ij^2)) g_j.

    In every case t_ij becomes (1 - beta) t_ij + beta p. The averages start at 0, where this is PCGrad. The user's
    weights multiply the rows, as in a weighted sum. The order of the j is drawn for every i and step.

    As t_ij approaches 1, the norm of g_i' grows without bound, for example if two losses were equal so far. It is
    therefore limited to `limit` times |g_i|, and |d| <= limit * sum_i |g_i|.

    Args:
        beta: Update rate of the averages; 1 uses the cosine of the last step.
        limit: Largest |g_i'| as a multiple of |g_i|.
        seed: Seed of the order.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        target [M, M]: t, for every ordered pair of losses.
    """

    needs_gradients = True
    target: Tensor

    def __init__(self, beta: float = 0.5, limit: float = 10.0, seed: int = 0) -> None:
        super().__init__()
        check_range("(0, 1]", beta=beta)
        check_range("[1, inf)", limit=limit)
        self.beta = beta
        self.limit = limit
        self.draws = SeededGenerator(seed)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("target", torch.zeros(len(weights), len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        norms = statistics.norms
        if not bool(norms.isfinite().all()):  # do not let them change the averages
            return torch.full_like(norms, float("nan"))
        # On unit rows: cosines do not depend on norms, and g_i' is proportional to |g_i|. NumPy, because these are m^2
        # dependent updates of a few numbers each, for which the overhead of torch's operators dominates.
        cosines = statistics.cosines.cpu().numpy()
        pairs = (statistics.index[:, None], statistics.index)
        targets = self.target[pairs].cpu()
        kept, _ = statistics.ema_coefficients(1 - self.beta)
        corrected = [self._correct(i, cosines, targets.numpy()[i], kept) for i in range(len(cosines))]
        self.target[pairs] = targets.to(self.target.device)
        rows = torch.from_numpy(np.stack(corrected)).to(norms.device)
        return torch.where(norms > 0, norms @ rows / norms, 0.0)

    def _correct(self, i: int, cosines: Array, targets: Array, kept: float) -> Array:
        """Coefficients of g_i' / |g_i| on the unit rows. Updates `targets`, which keep the fraction `kept`.

        Shape: cosines [m, m], targets [m] -> [m].
        """
        row = np.eye(len(cosines))[i]
        others = [j for j in range(len(cosines)) if j != i]
        for k in torch.randperm(len(others), generator=self.draws.generator).tolist():
            j = others[k]
            norm = math.sqrt(max(row @ cosines @ row, 0.0))
            cosine = min(max(cosines[j] @ row / max(norm, _TINY), -1.0), 1.0)
            target = targets[j]
            if cosine < target:
                sine, target_sine = math.sqrt(1 - cosine**2), max(math.sqrt(1 - target**2), _SMALLEST_SINE)
                row[j] += norm * (target * sine - cosine * target_sine) / target_sine
            targets[j] = kept * target + (1 - kept) * cosine
        norm = math.sqrt(max(row @ cosines @ row, 0.0))
        return row * (self.limit / max(norm, self.limit))
