"""The small solvers reach the optimum, also on inputs where general solvers fail."""

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from balancer.solvers import ROUNDING, fair_point, min_norm_point, nonnegative_minimum, project_to_dual_cone
from direction_inputs import DEGENERATE, rows_of

Array = NDArray[np.float64]
ROWS = [*DEGENERATE.values(), *[rows_of(count, size, seed=30) for count, size in [(2, 2), (5, 3), (8, 8), (12, 6)]]]


def cosines_of(rows: Tensor) -> Array:
    unit = normalize(rows).numpy()
    return (1 - ROUNDING) * (unit @ unit.T) + ROUNDING * np.eye(len(unit))


def assert_optimal(matrix: Array, linear: Array, x: Array) -> None:
    """x >= 0, the slope Q x - q >= 0, and at least one of the two is 0."""
    slope, tolerance = matrix @ x - linear, 1e-9 * np.abs(linear).max() + 1e-14 * x.sum()
    assert x.min() >= 0
    assert slope.min() >= -tolerance
    assert (np.minimum(x, slope) <= tolerance).all()


def test_nonnegative_minimum_is_optimal() -> None:
    for rows in ROWS:
        cosines = cosines_of(rows)
        for linear in (-cosines, np.eye(len(cosines)), np.random.default_rng(0).standard_normal((5, len(cosines)))):
            for row, x in zip(linear, nonnegative_minimum(cosines, linear), strict=True):
                assert_optimal(cosines, row, x)


def test_nonnegative_minimum_where_several_unknowns_become_positive_together() -> None:
    """Rows of signs have many equal cosines. SciPy 1.17's nnls fails on about one such problem in 2000."""
    generator = np.random.default_rng(0)
    for _ in range(500):
        unit = generator.choice([-1.0, 1.0], (6, 12)) / np.sqrt(12)
        cosines = (1 - ROUNDING) * (unit @ unit.T) + ROUNDING * np.eye(6)
        for row, x in zip(-cosines, nonnegative_minimum(cosines, -cosines), strict=True):
            assert_optimal(cosines, row, x)


def test_nonnegative_minimum_where_exchanging_all_signs_would_cycle() -> None:
    """With strong couplings of both signs, exchanging all wrong signs cycles; single exchanges terminate."""
    generator = np.random.default_rng(1)
    for _ in range(300):
        factor = generator.standard_normal((10, 10))
        matrix = factor @ factor.T + 1e-6 * np.eye(10)
        linear = generator.standard_normal((4, 10))
        for row, x in zip(linear, nonnegative_minimum(matrix, linear), strict=True):
            slope = matrix @ x - row
            assert slope.min() >= -1e-6 * max(1.0, x.max())
            assert abs(x @ slope) <= 1e-6 * max(1.0, x.max()) ** 2


def test_project_to_dual_cone() -> None:
    """The result is in the cone. The difference is a combination of rows with weights >= 0 and orthogonal to it."""
    for rows in ROWS:
        cosines = cosines_of(rows)
        targets = np.random.default_rng(0).standard_normal((4, len(cosines)))
        projected = project_to_dual_cone(cosines, targets)
        size = np.abs(projected).sum()
        assert (projected - targets).min() >= 0
        assert (projected @ cosines).min() >= -1e-9 * size
        assert np.abs(((projected - targets) @ cosines * projected).sum(1)).max() <= 1e-9 * size**2
        assert np.abs((project_to_dual_cone(cosines, projected) - projected) @ cosines).max() <= 1e-6 * size


def test_min_norm_point_is_optimal() -> None:
    """Only the shortest point d of the hull has d . r_i >= |d|^2 for all i."""
    for rows in ROWS:
        cosines, norms = cosines_of(rows), rows.norm(dim=1).numpy()
        weights = min_norm_point(cosines, norms)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        products = norms * (cosines @ (weights * norms))
        assert (products - weights @ products).min() >= -1e-9 * norms.min() * norms.max()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
def test_fair_point_is_bounded_for_opposed_rows(alpha: float) -> None:
    for rows in ROWS:
        cosines = cosines_of(rows)
        norms = np.geomspace(1.0, 100.0, len(cosines))
        v = fair_point(cosines, norms, alpha)
        assert v.min() > 0
        assert np.linalg.norm(v) <= 1.001e6 * np.linalg.norm(norms)
        if np.linalg.eigvalsh(cosines)[0] > 1e-3:
            np.testing.assert_allclose(cosines @ v, norms * (norms / v) ** (1 / alpha), rtol=1e-4)
