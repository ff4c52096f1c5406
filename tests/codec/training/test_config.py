"""Settings of the trainer: worked numbers, refused values, and random numbers that depend on seed and step only."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from codec.training import CodebookConfig, LRSchedule, RollbackConfig, TrainingConfig
from codec_inputs import seanet_config

CODEC = seanet_config(sample_rate=24_000, num_codebooks=32, bandwidths_kbps=[1.5, 3, 6, 12, 24])
ONE_STEP: dict[str, Any] = {"max_steps": 1}

# ------------------------------------------------------------------------------------------ length of the run


def test_progress_by_steps_ignores_the_clock() -> None:
    assert [TrainingConfig(max_steps=8).progress(step, 1e9) for step in (0, 2, 8, 12)] == [0, 0.25, 1, 1.5]


def test_progress_by_minutes_ignores_the_step() -> None:
    assert [TrainingConfig(max_minutes=0.5).progress(10**9, s) for s in (0, 7.5, 30)] == [0, 0.25, 1]


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "steps"), [(2, 10, 20), (1.5, 3, 5), (1, 0.25, 1), (4, 2.5, 10)])
def test_epochs_are_rounded_up_to_whole_steps(epochs: float, steps_per_epoch: float, steps: int) -> None:
    assert TrainingConfig(max_epochs=epochs, seed=3).in_steps(steps_per_epoch) == TrainingConfig(steps, seed=3)


def test_steps_and_minutes_do_not_depend_on_the_length_of_an_epoch() -> None:
    for config in (TrainingConfig(max_steps=7), TrainingConfig(max_minutes=7)):
        assert config.in_steps(3) == config
    with pytest.raises(ValueError, match="in_steps"):
        TrainingConfig(max_epochs=7).progress(1, 1.0)


@pytest.mark.parametrize("values", [{}, {"max_steps": 5, "max_minutes": 1.0}, {"max_epochs": 1, "max_minutes": 1}])
def test_exactly_one_limit_is_set(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_steps, trainer\.max_epochs, trainer\.max_minutes") as error:
        TrainingConfig(**values)
    assert str(values or "none") in str(error.value)


# ------------------------------------------------------------------------------------------ learning rate


def test_without_a_decay_the_rate_is_constant_after_the_warm_up() -> None:
    schedule = LRSchedule(warmup_fraction=0.1)
    assert [schedule.factor(p) for p in (0.05, 0.1, 0.5, 1.0)] == [0.5, 1, 1, 1]
    assert LRSchedule().factor(0) == 1


def test_no_step_of_the_warm_up_has_a_rate_of_zero() -> None:
    assert 0 < LRSchedule(warmup_fraction=0.5).factor(0.0) <= 0.01


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [1, 0.8, 0.6, 0.2, 0.2]),
        ("cosine", [1, 0.2 + 0.8 * (0.5 + 0.5 * math.sqrt(0.5)), 0.6, 0.2, 0.2]),
        ("exponential", [1, 0.2**0.25, 0.2**0.5, 0.2, 0.2]),
    ],
)
def test_the_rate_decays_from_the_end_of_the_warm_up_to_its_final_value(decay: Any, expected: list[float]) -> None:
    schedule = LRSchedule(warmup_fraction=0.2, decay=decay, final_factor=0.2)
    assert [schedule.factor(p) for p in (0.2, 0.4, 0.6, 1.0, 1.2)] == pytest.approx(expected)


def test_an_exponential_decay_is_that_of_torch_and_never_reaches_zero() -> None:
    """DAC: 0.999996 per step, 400,000 steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999996**1000)
    schedule = LRSchedule(decay="exponential", final_factor=0.999996**400_000)
    for step in range(10):
        assert schedule.factor(step / 400) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match="final_factor must be above 0 with decay=exponential, got 0"):
        LRSchedule(decay="exponential")


# ------------------------------------------------------------------------------------------ codebooks


def _draws(config: TrainingConfig, steps: int) -> list[int]:
    return [config.codebooks.draw(CODEC, config.step_generator(step)) for step in range(steps)]


@pytest.mark.parametrize(
    ("dropout", "choices"), [("none", [32]), ("codebooks", list(range(1, 33))), ("bandwidths", [2, 4, 8, 16, 32])]
)
def test_the_number_of_codebooks_is_uniform_over_the_choices(dropout: Any, choices: list[int]) -> None:
    count = 100 * len(choices)
    found = Counter(_draws(TrainingConfig(max_steps=1, codebooks=CodebookConfig(dropout=dropout)), count))
    assert sorted(found) == choices
    # Each count has mean 100 and a standard deviation of at most 10.
    assert max(abs(found[choice] - 100) for choice in choices) <= 45


def test_half_of_the_batches_use_all_codebooks_with_half_of_the_dropout() -> None:
    """DAC's `quantizer_dropout: 0.5`. The batches with dropout draw from all numbers, all codebooks included."""
    codebooks = CodebookConfig(dropout="codebooks", dropout_probability=0.5)
    found = Counter(_draws(TrainingConfig(max_steps=1, codebooks=codebooks), 6400))
    assert sorted(found) == list(range(1, 33))
    assert abs(found.pop(32) - 3300) <= 160  # a standard deviation of 40
    assert max(abs(count - 100) for count in found.values()) <= 45


def test_random_numbers_depend_on_seed_and_step_only() -> None:
    first, again, other = (TrainingConfig(max_steps=1, seed=seed) for seed in (3, 3, 4))
    assert _draws(first, 64) == _draws(again, 64)
    backwards = [first.codebooks.draw(CODEC, first.step_generator(step)) for step in reversed(range(64))]
    assert backwards[::-1] == _draws(first, 64)
    assert _draws(first, 64) != _draws(other, 64)
    # Step 1 with seed 3 differs from step 0 with seed 4: two seeds do not give one shifted stream.
    streams = [{torch.rand(1, generator=c.step_generator(step)).item() for step in range(64)} for c in (first, other)]
    assert not streams[0] & streams[1]


def test_later_random_numbers_of_a_step_do_not_depend_on_the_dropout() -> None:
    """The next number decides whether the discriminator is updated."""
    after = []
    for dropout in ("none", "codebooks", "bandwidths"):
        config = TrainingConfig(max_steps=1, codebooks=CodebookConfig(dropout=dropout))  # type: ignore[arg-type]
        generator = config.step_generator(5)
        config.codebooks.draw(CODEC, generator)
        after.append(torch.rand((), generator=generator).item())
    assert len(set(after)) == 1


def test_the_global_generator_is_not_used() -> None:
    before = torch.get_rng_state()
    _draws(TrainingConfig(max_steps=1), 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_commitment_loss_is_a_weighted_mean_or_sum_over_codebooks() -> None:
    per_codebook = torch.tensor([1.0, 2.0, 6.0])
    assert CodebookConfig(commitment_weight=0.5).commitment_loss(per_codebook).item() == 1.5
    summed = CodebookConfig(commitment_weight=0.5, commitment_reduction="sum")
    assert summed.commitment_loss(per_codebook).item() == 4.5


# ------------------------------------------------------------------------------------------ refused values


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *((LRSchedule, {"warmup_fraction": value}) for value in (1.0, -0.1)),
        *((LRSchedule, {"final_factor": value}) for value in (1.1, math.nan)),
        (LRSchedule, {"decay": "step"}),
        *((CodebookConfig, {"start_fraction": value}) for value in (1.0, -0.1)),
        *((CodebookConfig, {"commitment_weight": value}) for value in (-1.0, math.inf)),
        (CodebookConfig, {"init_batches": 0}),
        (CodebookConfig, {"dropout": "all"}),
        *((CodebookConfig, {"dropout_probability": value}) for value in (0.0, 1.1)),
        (CodebookConfig, {"commitment_reduction": "max"}),
        *((RollbackConfig, {"max_rollbacks": value}) for value in (-1, 1.5, True)),
        *((RollbackConfig, {"lr_factor": value}) for value in (0, 1.0)),
        *((TrainingConfig, {"max_steps": value}) for value in (0, -3, 1.5)),
        *((TrainingConfig, {"max_minutes": value}) for value in (0.0, "long")),
        (TrainingConfig, {"max_epochs": math.nan}),
        *((TrainingConfig, ONE_STEP | {name: 0}) for name in ("log_every", "validate_every", "checkpoint_every")),
        *((TrainingConfig, ONE_STEP | {"gradient_clip_norm": value}) for value in (0.0, math.nan)),
        *((TrainingConfig, ONE_STEP | {"checkpoint_minutes": value}) for value in (0, -1.0, "often")),
        *((TrainingConfig, ONE_STEP | {"encoder_lr_factor": value}) for value in (-1.0, math.nan)),
        *((TrainingConfig, ONE_STEP | {"freeze_encoder_at": value}) for value in (0.0, 1.1)),
        *((TrainingConfig, ONE_STEP | {"freeze_encoder_until": value}) for value in (-0.1, 1.0)),
        (TrainingConfig, ONE_STEP | {"freeze_encoder_at": 0.3, "freeze_encoder_until": 0.3}),
        (TrainingConfig, ONE_STEP | {"freeze_encoder_at": 0.3, "codebooks": CodebookConfig(start_fraction=0.3)}),
        (TrainingConfig, ONE_STEP | {"ema_decay": 1.0}),
        (TrainingConfig, ONE_STEP | {"max_skipped_steps": 0}),
        (TrainingConfig, ONE_STEP | {"seed": -1}),
        (TrainingConfig, ONE_STEP | {"init": "zero"}),
        (TrainingConfig, ONE_STEP | {"precision": "float16"}),
        (TrainingConfig, ONE_STEP | {"compile": "fast"}),
    ],
)
def test_a_value_out_of_range_is_refused(kind: type, values: dict[str, Any]) -> None:
    name = next(name for name in values if len(values) == 1 or name not in ONE_STEP)
    place = {LRSchedule: ".lr_schedule", CodebookConfig: ".codebooks", RollbackConfig: ".rollback"}.get(kind, "")
    with pytest.raises(ValueError, match="must be") as error:
        kind(**values)
    assert str(error.value).startswith(f"trainer{place}.{name} ")
    assert str(values[name]) in str(error.value)
    assert "\n" not in str(error.value)
