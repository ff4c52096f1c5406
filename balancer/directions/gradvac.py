"""Gradient Vaccine: pairs of gradients are turned towards the angle they usually have (Wang et al. 2021)."""

import math
import sys
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from balancer.solvers import Array
from balancer.statistics import Statistics

__all__ = ["GradVac"]


class GradVac(nn.Module):
    """d = sum_i g_i', where g_i' starts as g_i and gets so much of every g_j that their cosine reaches its average.

    With p the cosine of g_i' and g_j, and t_ij < 1 its moving average, if p < t_ij

        g_i' += |g_i'| (t_ij sqrt(1 - p^2) - p sqrt(1 - t_ij^2)) / (|g_j| sqrt(1 - t_ij^2)) g_j,

    and in any case t_ij becomes (1 - beta) t_ij + beta p. Averages start at 0, where this is PCGrad. Larger user
    weights make larger rows, as in a weighted sum. The order of the j is drawn from an own generator, which is part of
    the state.

    The nearer t_ij is to 1, the longer g_i' becomes, without bound where two losses have been the same until now.
    Hence it is cut to `limit` times the length of g_i, and |d| <= limit * sum_i |g_i|.

    Buffers:
        target [M, M]: t, for every ordered pair of losses.

    Args:
        beta: How fast the averages follow; 1 aims at the last step.
        limit: Of the length of a corrected gradient, in lengths of the original.
        seed: Of the order.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True
    target: Tensor

    def __init__(self, beta: float = 0.5, limit: float = 10.0, seed: int = 0) -> None:
        super().__init__()
        if not 0 < beta <= 1:
            raise ValueError(f"beta must be in (0, 1], got {beta}")
        if not 1 <= limit < float("inf"):
            raise ValueError(f"limit must be 1 or more, got {limit}")
        self.beta = beta
        self.limit = limit
        self.generator = torch.Generator().manual_seed(seed)

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("target", torch.zeros(len(weights), len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        norms = statistics.norms
        if not bool(norms.isfinite().all()):  # a scale gone wrong is not remembered
            return torch.full_like(norms, float("nan"))
        # On unit rows: cosines do not see lengths, and g_i' is proportional to |g_i|. Numbers as few as these are
        # NumPy's: m^2 corrections in turn, each of a handful of operations, cost torch more to call than to do.
        cosines = statistics.cosines.cpu().numpy()
        pairs = (statistics.index[:, None], statistics.index)
        targets = self.target[pairs].cpu()
        kept, _ = statistics.remembered(1 - self.beta)
        each = [self._corrected(i, cosines, targets.numpy()[i], kept) for i in range(len(cosines))]
        self.target[pairs] = targets.to(self.target.device)
        rows = torch.from_numpy(np.stack(each)).to(norms.device)
        return torch.where(norms > 0, norms @ rows / norms, 0.0)

    def _corrected(self, i: int, cosines: Array, targets: Array, kept: float) -> Array:
        """Coefficients of g_i' / |g_i| on the unit rows; moves `targets` on, which keep the share `kept` of themselves.

        Shape: cosines [m, m], targets [m] -> [m].
        """
        row = np.eye(len(cosines))[i]
        others = [j for j in range(len(cosines)) if j != i]
        for k in torch.randperm(len(others), generator=self.generator).tolist():
            j = others[k]
            length = math.sqrt(max(row @ cosines @ row, 0.0))
            cosine = min(max(cosines[j] @ row / max(length, _TINY), -1.0), 1.0)
            target = targets[j]
            if cosine < target:
                sine, wanted = math.sqrt(1 - cosine**2), max(math.sqrt(1 - target**2), _SMALLEST_SINE)
                row[j] += length * (target * sine - cosine * wanted) / wanted
            targets[j] = kept * target + (1 - kept) * cosine
        length = math.sqrt(max(row @ cosines @ row, 0.0))
        return row * (self.limit / max(length, self.limit))

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


_TINY = sys.float_info.min
_SMALLEST_SINE = 1e-6  # cosines of float32 gradients know no smaller angle
