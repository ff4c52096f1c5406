"""Budgets, schedules and draws: worked numbers, and draws that depend on seed and step alone."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from codec.config import CodecConfig
from codec.training import Budget, Cadence, CodebookPlan, LearningRate, Plan

CONFIG = CodecConfig(sample_rate=24_000, codebooks=32, bandwidths_kbps=[1.5, 3, 6, 12, 24])

# ------------------------------------------------------------------------------------------------ budget


def test_a_budget_of_steps_counts_steps_only() -> None:
    assert [Budget(steps=8).progress(step, 1e9) for step in (0, 2, 8, 12)] == [0, 0.25, 1, 1.5]


def test_a_budget_of_minutes_counts_training_time_only() -> None:
    assert [Budget(minutes=0.5).progress(10**9, seconds) for seconds in (0, 7.5, 30)] == [0, 0.25, 1]


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "steps"), [(2, 10, 20), (1.5, 3, 5), (1, 0.25, 1), (4, 2.5, 10)])
def test_epochs_become_whole_steps_that_cover_them(epochs: float, steps_per_epoch: float, steps: int) -> None:
    assert Budget(epochs=epochs).in_steps(steps_per_epoch) == Budget(steps=steps)


def test_other_budgets_do_not_depend_on_the_length_of_an_epoch() -> None:
    assert Budget(steps=7).in_steps(3) == Budget(steps=7)
    assert Budget(minutes=7).in_steps(3) == Budget(minutes=7)
    with pytest.raises(ValueError, match="in_steps"):
        Budget(epochs=7).progress(1, 1.0)


@pytest.mark.parametrize(
    "values", [{}, {"steps": 0}, {"steps": -3}, {"steps": 5, "minutes": 1.0}, {"epochs": math.nan}, {"minutes": 0.0}]
)
def test_a_budget_is_one_positive_number(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one positive number of steps, epochs or minutes"):
        Budget(**values)


# ------------------------------------------------------------------------------------------------ learning rate


def test_without_a_decay_the_rate_rises_and_stays() -> None:
    rate = LearningRate(warmup=0.1)
    assert [rate.factor(p) for p in (0.05, 0.1, 0.5, 1.0)] == [0.5, 1, 1, 1]
    assert LearningRate().factor(0) == 1


def test_no_step_of_the_warm_up_has_a_rate_of_zero() -> None:
    assert 0 < LearningRate(warmup=0.5).factor(0.0) <= 0.01


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("linear", [1, 0.8, 0.6, 0.2, 0.2]), ("cosine", [1, 0.2 + 0.8 * (0.5 + 0.5 * math.sqrt(0.5)), 0.6, 0.2, 0.2])],
)
def test_the_rate_decays_from_the_end_of_the_warm_up_to_its_final_value(decay: Any, expected: list[float]) -> None:
    rate = LearningRate(warmup=0.2, decay=decay, final=0.2)
    assert [rate.factor(p) for p in (0.2, 0.4, 0.6, 1.0, 1.2)] == pytest.approx(expected)


@pytest.mark.parametrize(
    "values", [{"warmup": 1.0}, {"warmup": -0.1}, {"decay": "exponential"}, {"final": 1.1}, {"final": math.nan}]
)
def test_a_schedule_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        LearningRate(**values)


# ------------------------------------------------------------------------------------------------ codebooks


def _books(plan: Plan, steps: int) -> list[int]:
    return [plan.codebooks.draw(CONFIG, plan.draws(step)) for step in range(steps)]


@pytest.mark.parametrize(
    ("dropout", "choices"), [("none", [32]), ("books", list(range(1, 33))), ("bandwidths", [2, 4, 8, 16, 32])]
)
def test_books_are_drawn_uniformly_from_the_choices(dropout: Any, choices: list[int]) -> None:
    count = 100 * len(choices)
    found = Counter(_books(Plan(Budget(steps=1), codebooks=CodebookPlan(dropout=dropout)), count))
    assert sorted(found) == choices
    # Each count is 100 with a standard deviation of 10.
    assert max(abs(found[choice] - 100) for choice in choices) <= 45


def test_draws_depend_on_seed_and_step_and_on_nothing_else() -> None:
    first, again, other = (Plan(Budget(steps=1), seed=seed) for seed in (3, 3, 4))
    assert _books(first, 64) == _books(again, 64)
    assert list(reversed([first.codebooks.draw(CONFIG, first.draws(step)) for step in reversed(range(64))])) == _books(
        first, 64
    )
    assert _books(first, 64) != _books(other, 64)
    # Step 1 under seed 3 is not step 0 under seed 4: two runs are not the same stream, moved.
    streams = [[torch.rand(1, generator=plan.draws(step)).item() for step in range(64)] for plan in (first, other)]
    assert not set(streams[0]) & set(streams[1])


def test_a_different_dropout_leaves_later_draws_of_the_step_alone() -> None:
    """Whether the discriminator learns must not hang on how the books are drawn."""
    after = []
    for dropout in ("none", "books", "bandwidths"):
        plan = Plan(Budget(steps=1), codebooks=CodebookPlan(dropout=dropout))  # type: ignore[arg-type]
        draws = plan.draws(5)
        plan.codebooks.draw(CONFIG, draws)
        after.append(torch.rand((), generator=draws).item())
    assert len(set(after)) == 1


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    _books(Plan(Budget(steps=1)), 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_commitment_is_a_weighted_mean_or_sum_over_the_books_in_use() -> None:
    per_book = torch.tensor([1.0, 2.0, 6.0])
    assert CodebookPlan(commitment=0.5).commitment_loss(per_book).item() == 1.5
    assert CodebookPlan(commitment=0.5, commitment_over="sum").commitment_loss(per_book).item() == 4.5


@pytest.mark.parametrize(
    "values",
    [{"start": 1.0}, {"start": -0.1}, {"start_batches": 0}, {"dropout": "all"}, {"commitment": -1.0},
     {"commitment": math.inf}, {"commitment_over": "max"}],
)  # fmt: skip
def test_a_codebook_plan_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        CodebookPlan(**values)


# ------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize("name", ["log", "validate", "checkpoint"])
def test_an_interval_is_at_least_one_step(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Cadence(**{name: 0})


@pytest.mark.parametrize(
    "values",
    [
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"average_decay": 1.0},
        {"max_skipped": 0},
        {"seed": -1},
        {"initial": "zero"},
        {"encoder_rate": -1.0},
        {"encoder_rate": math.nan},
        {"encoder_until": 0.0},
        {"encoder_until": 1.1},
        {"encoder_until": 0.3, "codebooks": CodebookPlan(start=0.3)},
    ],
)
def test_a_plan_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Plan(Budget(steps=1), **values)
