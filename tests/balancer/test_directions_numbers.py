"""Directions that follow from the Gramian against worked numbers, torchjd and slow general optimisers."""

import math
from itertools import chain, combinations
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.testing import assert_close
from torchjd import aggregation

from balancer import Direction
from balancer.directions.aligned_mtl import AlignedMTL
from balancer.directions.cagrad import CAGrad
from balancer.directions.conflict_free import ConflictFree
from balancer.directions.dualproj import DualProj
from balancer.directions.fairgrad import FairGrad
from balancer.directions.imtl_g import IMTLG
from balancer.directions.mgda import MGDA
from balancer.directions.nash_mtl import NashMTL
from balancer.directions.upgrad import UPGrad
from direction_inputs import EVERY, combined, pair, rows_of, scaled_statistics

JA = torch.tensor([[1, 0], [0, 2]], dtype=torch.float64)
JB = torch.tensor([[-4, 1, 1], [6, 1, 1]], dtype=torch.float64)
JC = torch.tensor([[1, 0], [-1, 1]], dtype=torch.float64)
JD = torch.tensor([[3, 0, 0], [0, 4, 0], [-1, 0, 2]], dtype=torch.float64)
RANDOM = [rows_of(count, size, seed) for seed in range(2) for count, size in [(2, 3), (3, 3), (5, 6), (6, 50), (8, 9)]]
Array = NDArray[np.float64]


def subsets(count: int) -> list[list[int]]:
    """All nonempty subsets."""
    return [list(each) for each in chain.from_iterable(combinations(range(count), k + 1) for k in range(count))]


# By hand


@pytest.mark.parametrize(
    ("direction", "rows", "expected"),
    [
        (MGDA("none"), JA, [0.8, 0.4]),
        (MGDA("none"), JB, [0, 1, 1]),
        (MGDA("none"), JD, [48 / 89, 36 / 89, 96 / 89]),
        (MGDA("l2"), JA, [0.5, 0.5]),
        (CAGrad(0.5), JA, [1.059017, 1.0]),
        (CAGrad(0.5, rescale=True), JA, [0.847214, 0.8]),
        (CAGrad(0.5), JB, [0.183503, 1.204124, 1.204124]),
        (IMTLG(), JA, [2 / 3, 2 / 3]),
        (IMTLG(), JB, [0.076697, 1, 1]),
        (NashMTL(), JA, [1, 1]),
        (NashMTL(max_norm=1.0), JA, [math.sqrt(0.5), math.sqrt(0.5)]),
        (FairGrad(2.0), JA, [1, 0.793701]),
        (AlignedMTL(), JA, [0.5, 0.5]),
        (AlignedMTL(), JB, [0.213279, 0.967333, 0.967333]),
        (UPGrad(), JA, [0.5, 1]),
        (UPGrad(), JB, [0.292398, 1.900585, 1.900585]),
        (UPGrad(), JC, [0.25, 0.75]),
        (UPGrad(), JD, [0.8, 4 / 3, 16 / 15]),
        (DualProj(), JA, [0.5, 1]),
        (DualProj(), JB, [5 / 9, 10 / 9, 10 / 9]),
        (ConflictFree(), JA, [1.5, 1.5]),
        (ConflictFree(), JB, [0.158809, 2.070607, 2.070607]),
        (ConflictFree(), JD, [2, 2, 3.236068]),
    ],
)
def test_gradient_by_hand(direction: Direction, rows: Tensor, expected: list[float]) -> None:
    assert_close(combined(direction, rows), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("direction", "rows", "expected"),
    [
        (MGDA("none"), JA, [0.8, 0.2]),
        (MGDA("none"), JB, [0.6, 0.4]),
        (MGDA("none"), JD, [32 / 89, 9 / 89, 48 / 89]),
        (NashMTL(), JB, [0.591461, 0.407071]),
        (NashMTL(), JC, [1.847759, 1.306563]),
        (FairGrad(1.0), JC, [1.847759, 1.306563]),
        (FairGrad(2.0), JA, [1, 0.396850]),
        (FairGrad(2.0), JB, [0.471363, 0.319454]),
        (UPGrad(), 3e-6 * JC, [1, 0.75]),
    ],
)
def test_weights_by_hand(direction: Direction, rows: Tensor, expected: list[float]) -> None:
    weights = direction(scaled_statistics(rows))
    assert_close(weights, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


COSINE = -0.999999
ALMOST_OPPOSED = {  # the weight of both unit vectors
    "mgda": 0.5,
    "mgda_none": 0.5,
    "cagrad": 0.7,
    "imtl_g": 0.5,
    "nash_mtl": (1 + COSINE) ** -0.5,
    "fairgrad_half": (1 + COSINE) ** (-1 / 3),
    "aligned_mtl": 0.5,
    "upgrad": (1 - COSINE) / 2,
    "dualproj": 0.5,
    "conflict_free": 1.0,
}


@pytest.mark.parametrize("name", ALMOST_OPPOSED)
def test_two_gradients_almost_opposed(name: str) -> None:
    weights = EVERY[name](scaled_statistics(pair(COSINE)))
    assert_close(weights, torch.full_like(weights, ALMOST_OPPOSED[name]), rtol=1e-5, atol=0)


# torchjd, for aggregators without extra solvers; its thresholds assume norms near 1


@pytest.mark.parametrize(
    ("direction", "oracle", "tolerance"),
    [
        (MGDA("none"), aggregation.MGDA(epsilon=1e-6, max_iters=2000), 1e-2),
        (IMTLG(limit=1e6), aggregation.IMTLG(), 1e-6),
        (FairGrad(0.5), aggregation.FairGrad(alpha=0.5), 1e-4),
        (FairGrad(1.0), aggregation.FairGrad(alpha=1.0), 1e-4),
        (NashMTL(), aggregation.FairGrad(alpha=1.0), 1e-4),
        (FairGrad(2.0), aggregation.FairGrad(alpha=2.0), 1e-4),
        (AlignedMTL(), aggregation.AlignedMTL(), 1e-6),
        (AlignedMTL("median"), aggregation.AlignedMTL(scale_mode="median"), 1e-6),
        (AlignedMTL("rmse"), aggregation.AlignedMTL(scale_mode="rmse"), 1e-6),
        (ConflictFree(), aggregation.ConFIG(), 1e-6),
    ],
)
def test_as_torchjd(direction: Direction, oracle: aggregation.Aggregator, tolerance: float) -> None:
    for rows in [JA, JB, JC, JD, *RANDOM]:
        rows = rows / rows.norm()
        assert_close(combined(direction, rows), oracle(rows), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_mtl_of_dependent_rows_as_torchjd(scale: Literal["min", "median", "rmse"]) -> None:
    rows = rows_of(4, 9, seed=23)[[0, 1, 2, 1, 3]]
    rows[4] = rows[0] - rows[2]
    expected = aggregation.AlignedMTL(scale_mode=scale)(rows)
    assert expected.norm() > 0.1
    assert_close(combined(AlignedMTL(scale), rows), expected, rtol=1e-6, atol=1e-6)


def test_preferences_as_torchjd() -> None:
    rows = rows_of(4, 7, seed=20)
    users = torch.tensor([1.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    theirs = aggregation.AlignedMTL(pref_vector=users / 4)(rows)
    assert_close(combined(AlignedMTL(), rows, users.tolist()), theirs)
    assert_close(combined(ConflictFree(), rows, users.tolist()), aggregation.ConFIG(pref_vector=users)(rows))


# Slow general methods


def shortest_in_hull(rows: Array) -> Array:
    """The shortest of the points of the affine hulls of all subsets that are in the convex hull."""
    found = []
    for subset in subsets(len(rows)):
        chosen = rows[subset]
        system = np.block(
            [[chosen @ chosen.T, np.ones((len(subset), 1))], [np.ones((1, len(subset))), np.zeros((1, 1))]]
        )
        weights = np.linalg.lstsq(system, np.append(np.zeros(len(subset)), 1.0), rcond=None)[0][:-1]
        if weights.min() >= -1e-12:
            found.append(weights @ chosen)
    return min(found, key=lambda point: point @ point)


def nearest_in_dual_cone(rows: Array, target: Array) -> Array:
    """The nearest in the cone of the projections on intersections of planes orthogonal to subsets of rows."""
    found = []
    for subset in [[], *subsets(len(rows))]:
        chosen = rows[subset]
        point = target - np.linalg.pinv(chosen) @ (chosen @ target) if subset else target
        if (rows @ point).min() >= -1e-10:
            found.append(point)
    return min(found, key=lambda point: np.linalg.norm(point - target))


def test_mgda_is_the_shortest_point_of_the_hull() -> None:
    for rows in [JB, JC, JD, *RANDOM]:
        expected = shortest_in_hull(rows.numpy())
        assert_close(combined(MGDA("none"), rows).numpy(), expected, rtol=1e-7, atol=1e-7)


def test_upgrad_and_dualproj_are_projections_on_the_dual_cone() -> None:
    for rows in [JB, JC, JD, *RANDOM]:
        projected = [nearest_in_dual_cone(rows.numpy(), row) for row in rows.numpy()]
        assert_close(combined(UPGrad(), rows).numpy(), np.mean(projected, axis=0), rtol=1e-7, atol=1e-7)
        expected = nearest_in_dual_cone(rows.numpy(), rows.mean(0).numpy())
        assert_close(combined(DualProj(), rows).numpy(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
def test_fairgrad_solves_its_equation_which_has_one_solution(alpha: float) -> None:
    for rows in [JB, JC, JD, *RANDOM, rows_of(6, 20, seed=21, spread=1e6)]:
        weights = FairGrad(alpha)(scaled_statistics(rows))
        assert weights.min() > 0
        assert_close((rows @ (weights @ rows)) ** alpha * weights, torch.ones_like(weights), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rows", [JB, JC, JD, *RANDOM])
def test_nash_mtl_maximises_the_product_of_gains(rows: Tensor) -> None:
    gram = (rows @ rows.T).numpy()
    start = np.log(NashMTL()(scaled_statistics(rows)).numpy()) + 0.3 * np.sin(np.arange(len(rows)))
    convex = minimize(
        lambda x: 0.5 * np.exp(x) @ gram @ np.exp(x) - x.sum(),
        start,
        jac=lambda x: np.exp(x) * (gram @ np.exp(x)) - 1,
        tol=1e-12,
    )
    d = combined(NashMTL(), rows).numpy()
    assert_close(d, np.exp(convex.x) @ rows.numpy(), rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(d) == pytest.approx(math.sqrt(len(rows)))
    generator = np.random.default_rng(0)
    for _ in range(200):
        other = d + 0.1 * generator.standard_normal(d.shape)
        gains = rows.numpy() @ (other * np.linalg.norm(d) / np.linalg.norm(other))
        assert gains.min() <= 0 or np.log(gains).sum() <= np.log(rows.numpy() @ d).sum()


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
def test_cagrad_has_no_duality_gap(c: float) -> None:
    """Every w of the dual bounds the progress of every d in the ball, so equal values prove that both are optimal."""
    for rows in [JA, JB, JC, JD, *RANDOM, rows_of(5, 4, seed=22, spread=1e3)]:
        mean = rows.mean(0)
        radius = c * mean.norm()
        weights = CAGrad(c)(scaled_statistics(rows))
        d = weights @ rows
        assert (d - mean).norm() <= radius * (1 + 1e-9)
        shift = weights - 1 / len(rows)
        w = shift / shift.sum()
        bound = (w @ rows) @ mean + radius * (w @ rows).norm()
        assert (rows @ d).min().item() == pytest.approx(bound.item(), rel=1e-6, abs=1e-6 * mean.norm().item() ** 2)


@pytest.mark.parametrize("rows", [JA, JB, JC, JD, *RANDOM])
def test_cagrad_equals_a_general_optimiser(rows: Tensor) -> None:
    array, count = rows.numpy(), len(rows)
    mean = array.mean(0)
    radius = 0.4 * np.linalg.norm(mean)
    dual = minimize(
        lambda w: (w @ array) @ mean + radius * np.linalg.norm(w @ array),
        np.full(count, 1 / count),
        jac=lambda w: array @ mean + radius * array @ (w @ array) / np.linalg.norm(w @ array),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
        method="SLSQP",
        tol=1e-14,
    )
    assert (array @ combined(CAGrad(), rows).numpy()).min() == pytest.approx(dual.fun, rel=1e-5, abs=1e-6)
