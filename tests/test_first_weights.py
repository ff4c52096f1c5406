"""A run that begins as a transform codec, and an encoder that moves more slowly than its decoder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_run import (
    copied,
    differences,
    interrupt_at,
    metric_lines,
    started,
    take_steps,
    tidied,
    tiny_codec,
    tiny_trainer,
)

from codec.training import Trainer
from codec.training.plan import CodebookPlan


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def scores_before_the_first_step(trainer: Trainer) -> float:
    trainer.run()
    first = metric_lines(trainer, "validation")[0]
    assert first["step"] == 0
    return float(first["all/si_sdr_db"])


def test_the_first_validation_already_hears_the_clips(tmp_path: Path) -> None:
    random = scores_before_the_first_step(tiny_trainer(tmp_path / "random"))
    transform = scores_before_the_first_step(tiny_trainer(tmp_path / "transform", initial="transform"))
    assert random < -20 < -3 < transform


def test_the_average_and_the_codec_begin_alike(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, initial="transform")
    interrupt_at(trainer, 0)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert bool(trainer.codec.quantizer.started)
    assert differences(trainer.codec.state_dict(), trainer.averaged_codec.state_dict()) == []
    assert differences(trainer.codec.state_dict(), tiny_codec().state_dict()) != []


def test_a_resumed_run_is_not_begun_anew(tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path / "whole", initial="transform", encoder_rate=0.1)
    whole.run()
    stopped = tiny_trainer(tmp_path / "stopped", initial="transform", encoder_rate=0.1)
    interrupt_at(stopped, 4)
    take_steps_until_interrupted(stopped)
    resumed = tiny_trainer(tmp_path / "stopped", initial="transform", encoder_rate=0.1)
    resumed.run()
    assert differences(resumed.codec.state_dict(), whole.codec.state_dict()) == []


def take_steps_until_interrupted(trainer: Trainer) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    trainer.save(None)


def test_a_rate_of_zero_leaves_the_encoder_as_it_is(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=started(tiny_codec()), encoder_rate=0.0)
    before = copied(trainer.codec.state_dict())
    take_steps(trainer, 2)
    after = trainer.codec.state_dict()
    moved = {name.split(".")[0] for name in differences(before, after)}
    assert moved == {"/decoder", "/quantizer"}
    assert all(parameter.grad is None for parameter in trainer.codec.encoder.parameters())


@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_the_encoder_moves_at_its_own_rate(tmp_path: Path, rate: float) -> None:
    """Adam's first step is the learning rate in every weight that has a gradient well above its epsilon."""
    trainer = tiny_trainer(tmp_path, codec=started(tiny_codec()), encoder_rate=rate)
    before = copied(trainer.codec.state_dict())
    take_steps(trainer, 1)
    moved = {name: (tensor - before[name]).abs() for name, tensor in trainer.codec.named_parameters()}
    for part, expected in (("encoder", 1e-3 * rate), ("decoder", 1e-3)):
        steps = torch.cat([step.flatten() for name, step in moved.items() if name.startswith(part)])
        torch.testing.assert_close(steps.median().item(), expected, rtol=0.01, atol=0)


def test_a_commitment_to_an_encoder_that_stays_costs_nothing(tmp_path: Path) -> None:
    codec = started(tiny_codec())
    trainer = tiny_trainer(tmp_path, codec=codec, encoder_rate=0.0, codebooks=CodebookPlan(commitment=5.0))
    metrics = take_steps(trainer, 1)[0]
    assert float(metrics["commitment"]) > 0
    assert "commitment_ratio" not in metrics
