"""Directions that follow from the Gramian, and gradients to test them with."""

import math

import torch
from torch import Tensor

from balancer import Direction, Statistics
from balancer.directions.aligned_mtl import AlignedMTL
from balancer.directions.cagrad import CAGrad
from balancer.directions.conflict_free import ConflictFree
from balancer.directions.dualproj import DualProj
from balancer.directions.fairgrad import FairGrad
from balancer.directions.imtl_g import IMTLG
from balancer.directions.mgda import MGDA
from balancer.directions.nash_mtl import NashMTL
from balancer.directions.upgrad import UPGrad

__all__ = ["DEGENERATE", "EVERY", "combined", "pair", "rows_of", "scaled_statistics"]

EVERY: dict[str, Direction] = {
    "mgda": MGDA(),
    "mgda_none": MGDA("none"),
    "mgda_loss": MGDA("loss"),
    "mgda_loss+": MGDA("loss+"),
    "cagrad": CAGrad(),
    "cagrad_rescaled": CAGrad(0.5, rescale=True),
    "imtl_g": IMTLG(),
    "nash_mtl": NashMTL(),
    "nash_mtl_clipped": NashMTL(max_norm=1.0),
    "fairgrad_half": FairGrad(0.5),
    "fairgrad": FairGrad(),
    "fairgrad_4": FairGrad(4.0),
    "aligned_mtl": AlignedMTL(),
    "aligned_mtl_median": AlignedMTL("median"),
    "aligned_mtl_rmse": AlignedMTL("rmse"),
    "upgrad": UPGrad(),
    "dualproj": DualProj(),
    "conflict_free": ConflictFree(),
}


def scaled_statistics(
    rows: Tensor,
    weights: list[float] | None = None,
    losses: list[float] | None = None,
    scale: list[float] | None = None,
) -> Statistics:
    """Input of a direction, with the user's weights and a scale applied to the rows [m, n]."""
    ones = [1.0] * len(rows)
    users = torch.tensor(weights or ones, dtype=torch.float64)
    values = torch.tensor(losses or ones, dtype=torch.float64)
    raw = Statistics(torch.arange(len(rows)), values, users, rows[:, None, None])
    return raw.scaled(users * torch.tensor(scale or ones, dtype=torch.float64))


def combined(direction: Direction, rows: Tensor, weights: list[float] | None = None) -> Tensor:
    """The combined gradient [n]."""
    statistics = scaled_statistics(rows, weights)
    return direction(statistics) @ statistics.jacobian


def rows_of(count: int, size: int, seed: int, spread: float = 1.0) -> Tensor:
    """Random gradients; their norms fall by `spread` from first to last. Short rows have many conflicts."""
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows * torch.logspace(0, -math.log10(spread), count, dtype=torch.float64)[:, None]


def pair(cosine: float) -> Tensor:
    """Two unit vectors."""
    return torch.tensor([[1.0, 0.0], [cosine, math.sqrt((1 - cosine) * (1 + cosine))]], dtype=torch.float64)


_UNIT = torch.nn.functional.normalize(rows_of(3, 5, seed=0))
DEGENERATE: dict[str, Tensor] = {
    "single": _UNIT[:1],
    "opposed": torch.stack([_UNIT[0], -_UNIT[0]]),
    "opposed and a third": torch.stack([_UNIT[0], -_UNIT[0], _UNIT[1]]),
    "opposed, one long": torch.stack([1e6 * _UNIT[0], -_UNIT[0]]),
    "nearly opposed": pair(-0.999999),
    "opposed to rounding": torch.stack([_UNIT[0], -_UNIT[0] + 1e-8 * _UNIT[1]]),
    "duplicates": torch.stack([_UNIT[0], _UNIT[0], _UNIT[1]]),
    "all the same": _UNIT[:1].expand(4, -1).clone(),
    "same direction, different norms": torch.stack([_UNIT[0], 1e3 * _UNIT[0], 1e-3 * _UNIT[0]]),
    "dependent": torch.stack([_UNIT[0], _UNIT[1], _UNIT[0] - 2 * _UNIT[1]]),
    "zero inside the hull": torch.stack([_UNIT[0], _UNIT[1], -_UNIT[0] - _UNIT[1]]),
    "on a line": torch.tensor([[1.0], [2.0], [-3.0], [0.5]], dtype=torch.float64),
    "eight in a plane": rows_of(8, 2, seed=1),
    "norms over six decades": rows_of(6, 50, seed=2, spread=1e6),
    "conflict over six decades": rows_of(6, 4, seed=3, spread=1e6),
    "tiny": 1e-9 * rows_of(6, 20, seed=4),
    "signs": torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [-1, 1, -1, 1], [-1, -1, 1, 1]], dtype=torch.float64),
}
