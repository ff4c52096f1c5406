"""Directions that change single gradients: worked numbers, torchjd and properties."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchjd import aggregation

from balancer import Statistics
from balancer.directions.graddrop import GradDrop
from balancer.directions.gradvac import GradVac
from balancer.directions.pcd import PCD
from balancer.directions.pcgrad import PCGrad
from balancer.strategy import UsesLossWeights

NAMES = "abcdefgh"
JA = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
JB = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
JC = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
ROW_SUMS: list[Callable[[], nn.Module]] = [PCGrad, GradVac, GradDrop]


def prepared(direction: nn.Module, count: int) -> nn.Module:
    if isinstance(direction, UsesLossWeights):
        direction.prepare(dict.fromkeys(NAMES[:count], 1.0))
    return direction


def statistics(rows: Tensor, index: list[int] | None = None, weights: list[float] | None = None) -> Statistics:
    """The rows as they are, or scaled by `weights` as the engine scales them."""
    count = len(rows)
    users = torch.tensor(weights or [1.0] * count, dtype=torch.float64)
    ones = torch.ones(count, dtype=torch.float64)
    raw = Statistics(torch.tensor(index or range(count)), ones, users, rows.float()[:, None, None])
    return raw.scaled(users)


def combined(direction: nn.Module, rows: Tensor) -> Tensor:
    weights = direction(statistics(rows))
    return (weights.double() if weights.ndim == 2 else weights[:, None]).mul(rows.double()).sum(0)


def conflicting(count: int, seed: int, size: int = 6) -> Tensor:
    """Random rows in a low-dimensional space, where many of them oppose each other."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def drawing_like(seed: int, aggregator: Callable[[], Tensor]) -> Tensor:
    """torchjd draws from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return aggregator()


# PCGrad


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(JA, [1.0, 1.0]), (JB, [2.222222, 1.578947]), (3e-6 * JB, [2.222222, 1.578947])],
)
def test_pcgrad_example(rows: Tensor, expected: list[float]) -> None:
    weights = prepared(PCGrad(), 2)(statistics(rows))
    assert_close(weights, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_pcgrad_is_torchjds_with_the_same_draws(count: int) -> None:
    ours, theirs = prepared(PCGrad(seed=7), count), aggregation.PCGrad()
    rows = [conflicting(count, seed).double() for seed in range(20)]
    expected = drawing_like(7, lambda: torch.stack([theirs(each) for each in rows]))
    assert_close(torch.stack([combined(ours, each) for each in rows]), expected, rtol=1e-5, atol=1e-5)


def test_pcgrad_projects_on_the_originals_and_skips_the_row_itself() -> None:
    """The authors' code would also project on the row itself: (0.3, -0.6) in place of the first (0.5, -0.5)."""
    rows = torch.tensor([[-2.0, -1.0], [1.0, 0.0], [1.0, 1.0]])
    by_hand = [((0.5, -0.5), (0.0, 0.5)), ((0.3, -0.3), (0.2, -0.4)), ((0.0, 0.4), (-0.2, 0.4))]  # in either order
    expected = {tuple(np.round(np.sum(choice, 0), 4) + 0.0) for choice in product(*by_hand)}
    direction = prepared(PCGrad(), 3)
    found = {tuple(np.round(combined(direction, rows).numpy(), 4) + 0.0) for _ in range(200)}
    assert found == expected


def test_no_projected_gradient_opposes_the_last_it_was_projected_on() -> None:
    for seed in range(50):
        rows = conflicting(2, seed)
        d = combined(prepared(PCGrad(), 2), rows)
        assert (rows.double() @ d).min() > -1e-6


# GradVac


def test_gradvac_example() -> None:
    direction = prepared(GradVac(), 2)
    for expected, target in (
        ([2.0, 1.5], -0.353553),
        ([1.622036, 1.311018], -0.530330),
        ([1.374457, 1.187228], -0.618718),
    ):
        weights = direction(statistics(JC))
        assert_close(weights, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
        assert direction.target[0, 1].item() == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.01, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_gradvac_is_torchjds_with_the_same_draws(count: int, beta: float) -> None:
    """Without the limit, which torchjd does not have."""
    ours, theirs = prepared(GradVac(beta, limit=1e9, seed=3), count), aggregation.GradVac(beta, eps=0.0)
    rows = [conflicting(count, seed, size=50).double() for seed in range(20)]
    expected = drawing_like(3, lambda: torch.stack([theirs(each) for each in rows]))
    assert_close(torch.stack([combined(ours, each) for each in rows]), expected, rtol=1e-5, atol=1e-4)


def test_gradvacs_first_call_is_pcgrad() -> None:
    for rows in (JB, conflicting(2, 4)):
        assert_close(combined(prepared(GradVac(), 2), rows), combined(prepared(PCGrad(), 2), rows), atol=1e-6, rtol=0)


def test_gradvac_reaches_the_previous_cosine_of_two_gradients() -> None:
    direction = prepared(GradVac(beta=1.0), 2)
    direction(statistics(torch.tensor([[1.0, 0.0], [0.8, 0.6]])))
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    # With a cosine of 0.8 the first becomes (2, 8 / 3) and the second (4, 3).
    assert_close(combined(direction, rows), torch.tensor([6.0, 17 / 3], dtype=torch.float64))


def test_gradvac_is_bounded_for_losses_that_were_equal() -> None:
    same = torch.ones(8, 4) * torch.arange(1, 9)[:, None]
    for limit in (1.0, 10.0):
        direction = prepared(GradVac(limit=limit), 8)
        for _ in range(60):
            direction(statistics(same))
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        norm = torch.linalg.vector_norm(combined(direction, rows))
        assert norm <= limit * torch.linalg.vector_norm(rows, dim=1).sum() * (1 + 1e-6)
        assert direction.target.isfinite().all()


def test_gradvac_updates_only_active_pairs() -> None:
    direction = prepared(GradVac(), 4)
    direction(statistics(conflicting(4, 0)))
    before = direction.target.clone()
    direction(statistics(conflicting(2, 1), index=[1, 3]))
    changed = (direction.target != before).nonzero().tolist()
    assert changed == [[1, 3], [3, 1]]


# GradDrop


def test_graddrop_example() -> None:
    rows = torch.tensor([[1.0, 2.0, -1.0], [3.0, -2.0, 1.0]])
    found = combined(prepared(GradDrop(), 2), rows.repeat(1, 20_000)).view(-1, 3)
    assert_close(found.mean(0), torch.tensor([4.0, 0.0, 0.0], dtype=torch.float64), atol=0.05, rtol=0)
    signs = {tuple(each) for each in found.tolist()}
    assert signs == {(4.0, a, b) for a in (2.0, -2.0) for b in (1.0, -1.0)}


def test_graddrop_keeps_one_sign_with_the_probability_of_its_purity() -> None:
    found = combined(prepared(GradDrop(), 2), JB.repeat(1, 10_000)).view(-1, 3)
    assert {tuple(each) for each in found.tolist()} == {(6.0, 2.0, 2.0), (-4.0, 2.0, 2.0)}
    assert (found[:, 0] > 0).double().mean().item() == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("leak", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.2, 0.0, 0.7]])
def test_graddrop_is_torchjds_with_the_same_draws(leak: list[float]) -> None:
    ours = prepared(GradDrop(dict(zip("abc", leak, strict=True)), seed=5), 3)
    theirs = aggregation.GradDrop(leak=torch.tensor(leak))
    rows = [conflicting(3, seed, size=100) for seed in range(10)]
    seeds = torch.Generator().manual_seed(5)  # see `SeededGenerator.on`
    expected = torch.stack([
        drawing_like(int(torch.randint(2**31, (), generator=seeds)), lambda each=each: theirs(each)) for each in rows
    ])  # fmt: skip
    assert_close(torch.stack([combined(ours, each) for each in rows]).float(), expected)
    if leak[0] == 1:
        assert_close(expected, torch.stack(rows).sum(1))


def test_graddrop_is_finite_for_elements_without_a_gradient() -> None:
    weights = prepared(GradDrop(), 2)(statistics(torch.zeros(2, 3)))
    assert weights.isfinite().all()


def test_graddrop_leaks_by_loss_name() -> None:
    direction = prepared(GradDrop({"c": 1.0}), 3)
    weights = direction(statistics(torch.tensor([[1.0], [-1.0]]), index=[0, 2]))
    assert weights[1].item() == 1


# PCD


def test_pcd_example() -> None:
    for rows, expected in ((JA, [0.9998, 0.02]), (JB, [-0.82003, 2.94343, 2.94343])):
        direction = prepared(PCD("a"), 2)
        assert_close(combined(direction, rows), torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_pcd_is_torchjds(count: int, tau: float) -> None:
    ours, theirs = prepared(PCD("a", tau, 0.9), count), aggregation.PCD(tau, 0.9, eps=0.0)
    turned = 0
    for seed in range(20):
        rows = conflicting(count, seed, size=12) * torch.logspace(0, 3, count)[:, None]
        expected = theirs(rows.double())
        assert_close(combined(ours, rows), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        turned += bool((expected - rows[0]).abs().max() > 1e-3)
    assert turned >= 8 or count == 1


@pytest.mark.parametrize("tau", [0.02, 0.5])
def test_pcd_solves_its_problem(tau: float) -> None:
    """It satisfies the Karush-Kuhn-Tucker conditions on rows of unit norm, whose averages are 1."""
    active = 0
    for seed in range(20):
        rows = nn.functional.normalize(conflicting(5, seed, size=7).double(), dim=1)
        weights = prepared(PCD("c", tau), 5)(statistics(rows))
        multipliers = weights / weights[2]  # d = h_p + sum of multiplier_j h_j, before it is rescaled
        slack = (rows @ (multipliers @ rows) - tau)[[0, 1, 3, 4]]
        multipliers = multipliers[[0, 1, 3, 4]]
        assert multipliers.min() >= 0
        assert slack.min() > -1e-5
        assert (multipliers * slack).abs().max() < 1e-5
        active += int((multipliers > 1e-6).sum())
    assert active > 20


def test_pcd_has_the_norm_of_its_primary_gradient_and_opposes_no_loss() -> None:
    direction = prepared(PCD("b"), 4)
    for seed in range(30):
        rows = conflicting(4, seed, size=10) * torch.tensor([1.0, 1e-4, 1e3, 1e-6])[:, None]
        d = combined(direction, rows)
        assert torch.linalg.vector_norm(d).item() == pytest.approx(torch.linalg.vector_norm(rows[1]).item(), rel=1e-5)
        assert (nn.functional.normalize(rows.double(), dim=1)[[0, 2, 3]] @ d).min() > 0


def test_pcd_without_a_feasible_direction_is_the_primary_gradient() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, -3.0, -3.0]])
    assert_close(combined(prepared(PCD("a"), 3), rows), rows[0].double())


def test_pcd_with_an_opposed_pair_follows_the_constraint() -> None:
    rows = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    assert_close(combined(prepared(PCD("a"), 2), rows), torch.tensor([-3.0, 0.0], dtype=torch.float64))
    assert combined(prepared(PCD("a", tau=0.0), 2), rows).abs().max() < 1e-6


def test_pcd_is_zero_without_its_primary_loss() -> None:
    direction = prepared(PCD("a"), 3)
    assert direction(statistics(conflicting(2, 0), index=[1, 2])).tolist() == [0, 0]
    assert direction.average.count.tolist() == [0, 1, 1]


def test_weights_of_secondary_losses_are_preferences() -> None:
    """Orthogonal rows get exactly their guaranteed progress: 1/2 and 3/2 of tau."""
    direction = prepared(PCD("a", tau=0.1), 3)
    weights = [5.0, 1.0, 3.0]
    rows = torch.eye(3)
    d = direction(statistics(rows, weights=weights)) * torch.tensor(weights)
    assert_close(d / d[0], torch.tensor([1.0, 0.05, 0.15], dtype=torch.float64))
    assert torch.linalg.vector_norm(d).item() == pytest.approx(5.0)


# All


@pytest.mark.parametrize("make", [PCGrad, GradVac])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_orthogonal_gradients_are_added(make: Callable[[], nn.Module], count: int) -> None:
    rows = torch.eye(8)[:count] * torch.logspace(-3, 3, count)[:, None]
    assert_close(prepared(make(), count)(statistics(rows)), torch.ones(count, dtype=torch.float64))


@pytest.mark.parametrize("make", ROW_SUMS)
def test_weights_multiply_the_rows(make: Callable[[], nn.Module]) -> None:
    rows, weights = conflicting(3, 0), [2.0, 0.5, 1.0]
    scaled = torch.tensor(weights)[:, None] * rows
    direct = prepared(make(), 3)(statistics(scaled))
    assert_close(prepared(make(), 3)(statistics(rows, weights=weights)), direct)


@pytest.mark.parametrize("make", ROW_SUMS)
def test_draws_resume_and_leave_the_global_generator_alone(make: Callable[[], nn.Module]) -> None:
    before = torch.get_rng_state()
    uninterrupted, stopped, resumed = (prepared(make(), 8) for _ in range(3))
    rows = [conflicting(8, seed) for seed in range(12)]
    expected = [uninterrupted(statistics(each)) for each in rows]
    for each in rows[:6]:
        stopped(statistics(each))
    resumed.load_state_dict(stopped.state_dict())
    for each, weights in zip(rows[6:], expected[6:], strict=True):
        assert torch.equal(resumed(statistics(each)), weights)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", ROW_SUMS)
def test_the_seed_determines_the_draws(make: Callable[..., nn.Module]) -> None:
    def drawn(seed: int) -> Tensor:
        direction = prepared(make(seed=seed), 8)
        return torch.stack([direction(statistics(conflicting(8, each))) for each in range(5)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("make", [PCGrad, GradVac, GradDrop, lambda: PCD("a")])
def test_a_row_that_is_scaled_to_zero_gives_finite_weights(make: Callable[[], nn.Module]) -> None:
    direction = prepared(make(), 3)
    direction(statistics(torch.ones(3, 6)))
    weights = direction(statistics(torch.cat([conflicting(2, 3), torch.zeros(1, 6)])))
    assert weights.isfinite().all()


@pytest.mark.parametrize("make", [GradVac, lambda: PCD("a")])
def test_scales_that_are_not_finite_do_not_change_the_state(make: Callable[[], nn.Module]) -> None:
    direction = prepared(make(), 3)
    direction(statistics(conflicting(3, 0)))
    before = {name: buffer.clone() for name, buffer in direction.named_buffers()}
    assert direction(statistics(conflicting(3, 1), weights=[1.0, float("nan"), 1.0])).isnan().any()
    assert all(torch.equal(buffer, before[name]) for name, buffer in direction.named_buffers())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradVac(beta=0.0), r"beta must be in \(0, 1\], got 0.0"),
        (lambda: GradVac(limit=0.5), r"limit must be in \[1, inf\), got 0.5"),
        (lambda: GradDrop({"a": 1.5}), r"leak.a must be in \[0, 1\], got 1.5"),
        (lambda: prepared(GradDrop({"mel": 0.5}), 2), "leak must name losses among a, b, got mel"),
        (lambda: PCD("a", tau=1.1), r"tau must be in \[0, 1\], got 1.1"),
        (lambda: PCD("a", decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: prepared(PCD("mel"), 2), "primary must name losses among a, b, got mel"),
    ],
)
def test_settings_out_of_range_are_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
