"""What strategies hear of a run beside its steps: held-out losses after validations, priors before the first step."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from balancer import Balancer, Keep, Statistics, Sum
from codec.model_file import fingerprint
from codec.training import Trainer, Validation
from data import HeldOutClip
from losses import L1, MultiScaleMel, constant_baselines
from tiny_run import (
    RATE,
    initialized,
    interrupt_at,
    messages,
    metric_lines,
    plain_losses,
    take_steps,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
    tones,
)


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


class Listener:
    """A scale that keeps what it is told, and answers with `factor`."""

    needs_gradients = False
    factor = 1.0

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, float]]] = []

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.names = list(weights)

    def __call__(self, statistics: Statistics) -> Tensor:
        self.told.append(("step", {}))
        return torch.full_like(statistics.losses, self.factor)

    def set_constant_baselines(self, losses: Mapping[str, float]) -> None:
        self.told.append(("constant_baselines", dict(losses)))

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        self.told.append(("validated", dict(losses)))


def listening(trainer: Trainer) -> Listener:
    listener = Listener()
    trainer.balancer = Balancer(trainer.balancer.weights, listener, Sum(), Keep(), monitor_every=0)
    return listener


def test_held_out_losses_are_means_over_clips() -> None:
    clips = [HeldOutClip(str(i), "speech", audio) for i, audio in enumerate(tones(3, 1600, seed=2))]
    codec, losses = initialized(tiny_codec()).eval(), plain_losses()
    result = Validation(clips, Path("unused"), 3.2, samples_per_group=0).run(codec, losses, step=0)
    with torch.no_grad():
        pairs = [(codec(clip.audio[None]).audio, clip.audio[None]) for clip in clips]
        expected = {name: sum(loss(*pair).item() for pair in pairs) / 3 for name, loss in losses.items()}
    assert result.losses == pytest.approx(expected, rel=1e-5)
    assert {f"all/{name}_loss": value for name, value in result.losses.items()}.items() <= result.scores.items()


def test_a_clip_is_no_use_to_a_loss_it_is_too_short_for() -> None:
    short, long = tones(1, 100)[0], tones(1, 1600)[0]
    losses = {"l1": L1(), "mel": MultiScaleMel(RATE, [9], mels=8)}
    results = [
        Validation([HeldOutClip(str(i), "g", clip) for i, clip in enumerate(clips)], Path("unused"), 3.2, 0)
        .run(initialized(tiny_codec()).eval(), losses, step=0)
        .losses
        for clips in ((short,), (long,), (short, long))
    ]
    assert list(results[0]) == ["l1"]
    assert results[2]["mel"] == results[1]["mel"]
    assert results[2]["l1"] == pytest.approx((results[0]["l1"] + results[1]["l1"]) / 2)


def test_a_strategy_hears_of_priors_then_validations_then_steps(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path, adversarial=tiny_adversarial(), max_steps=4, log_every=100, validate_every=2, checkpoint_every=100
    )
    listener = listening(trainer)
    trainer.run()
    assert [kind for kind, _ in listener.told] == [
        "constant_baselines",
        "validated",
        *(["step"] * 2 + ["validated"]) * 2,
    ]
    batches = [trainer.data.batch(i) for i in range(8)]
    assert listener.told[0][1] == constant_baselines(trainer.losses, batches)
    lines = metric_lines(trainer, "validation")
    heard = [losses for kind, losses in listener.told if kind == "validated"]
    assert [losses["l1"] for losses in heard] == [line["all/l1_loss"] for line in lines]
    assert all(set(losses) == {"l1", "mel"} for losses in heard)  # a discriminator's are not measured


def test_a_resumed_run_gets_no_constant_baselines(tmp_path: Path) -> None:
    first = tiny_trainer(tmp_path, log_every=100, validate_every=100, checkpoint_every=3)
    interrupt_at(first, 4)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = tiny_trainer(tmp_path, log_every=100, validate_every=100, checkpoint_every=3)
    listener = listening(second)
    # Its state is the listener's, which has none but the balancer's own.
    first.balancer = Balancer(first.balancer.weights, Listener(), Sum(), Keep(), monitor_every=0)
    second.store.save(3, first.state_dict() | {"step": 3}, None)
    second.run()
    assert [kind for kind, _ in listener.told] == ["step"] * 3 + ["validated"]


def test_weights_that_are_not_finite_change_nothing(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()))
    listener = listening(trainer)
    listener.factor = float("inf")
    before = fingerprint(trainer.codec)
    assert take_steps(trainer, 1) == [{}]
    assert fingerprint(trainer.codec) == before
    assert messages(trainer)[-1] == "step 0 skipped: not finite: the balancer's weights"
    listener.factor = 1.0
    (metrics,) = take_steps(trainer, 1)
    assert metrics
    assert fingerprint(trainer.codec) != before


@pytest.mark.parametrize("count", [-1, 1.5])
def test_the_number_of_samples_is_checked(tmp_path: Path, count: Any) -> None:
    with pytest.raises(ValueError, match=rf"validation\.samples_per_group must be .* got {count}"):
        Validation([], tmp_path, 6.0, samples_per_group=count)
