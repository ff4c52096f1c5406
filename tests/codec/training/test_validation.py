"""What strategies hear of a run beside its steps: held-out losses after validations, priors before the first step."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from balancer import Balancer, Keep, Statistics, Sum
from codec.evaluation import METRICS, Metric
from codec.model_file import fingerprint
from codec.training import Trainer, Validation
from codec.training.best_score import BestScore
from codec.training.validation import ValidationResult
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


@pytest.mark.slow
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


def level_of_error(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    return (estimate - reference).abs().mean((1, 2))


SPEECH_ONLY = Metric("likeness", "likeness", lambda e, r, rate: -level_of_error(e, r, rate), True, domain="speech")


def clips_of(*groups: str) -> list[HeldOutClip]:
    audio = tones(len(groups), 1600, seed=4)
    return [HeldOutClip(f"{i}", group, each) for i, (group, each) in enumerate(zip(groups, audio, strict=True))]


def test_groups_are_never_averaged_together_and_metrics_of_speech_are_for_speech() -> None:
    clips = clips_of("my speech", "my speech", "music")
    metrics = ["mel_distance", SPEECH_ONLY, "codes_used"]
    codec = initialized(tiny_codec()).eval()
    together = Validation(clips, Path("unused"), 3.2, 0, metrics).run(codec, {}, step=0).scores
    names = {key for key in together if not key.startswith("codebook/")}
    assert names == {
        *("my speech/mel_distance", "my speech/likeness", "my speech/codes_used"),
        *("music/mel_distance", "music/codes_used"),
    }
    for group in ("my speech", "music"):
        own = [clip for clip in clips if clip.group == group]
        alone = Validation(own, Path("unused"), 3.2, 0, metrics, speech_groups=[]).run(codec, {}, step=0).scores
        for name in ("mel_distance", "codes_used"):
            assert together[f"{group}/{name}"] == pytest.approx(alone[f"{group}/{name}"], rel=1e-6)
    assert 0 < together["music/codes_used"] < 1
    chosen = Validation(clips, Path("unused"), 3.2, 0, metrics, speech_groups=["music"]).run(codec, {}, step=0).scores
    assert {key for key in chosen if key.endswith("likeness")} == {"music/likeness"}
    unnamed = Validation(clips_of("audio"), Path("unused"), 3.2, 0, metrics).run(codec, {}, step=0).scores
    assert "audio/likeness" in unnamed  # without a group of speech, all groups may be speech


@pytest.mark.slow
@pytest.mark.parametrize(("best", "sign"), [("speech/si_sdr_db", 1), ("music/ripple_db", -1)])
def test_the_best_checkpoint_has_the_best_score_of_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: str, sign: int
) -> None:
    """Whatever the training does, best.pt is the checkpoint whose logged score is the best one."""
    trainer = tiny_trainer(tmp_path, max_steps=6, log_every=100, validate_every=1, checkpoint_every=1)
    clips, folder = trainer.validation.clips, trainer.validation.samples_folder
    trainer.validation = Validation(clips, folder, 3.2, 0, [], best=best)
    score, given = trainer.validation.run, iter([0.5, 0.25, 0.75, 0.5, 1.0, 0.625, 0.125])

    def made_up(*arguments: Any) -> ValidationResult:
        result = score(*arguments)
        value = next(given)
        return result._replace(
            scores={key: value for key in result.scores if key.rpartition("/")[2] == best.rpartition("/")[2]}
        )

    monkeypatch.setattr(trainer.validation, "run", made_up)
    trainer.run()
    found = trainer.store.load_best()
    assert found is not None
    assert (found.step, found.score) == ((4, -1.0) if sign > 0 else (6, 0.125))


def test_a_score_that_is_nan_or_missing_ranks_no_checkpoint() -> None:
    best = BestScore.parse("speech/distillmos")
    assert best.metric is METRICS["distillmos"]
    assert best.cost({"speech/distillmos": 3.5, "words of speech/distillmos": 1.0}) == -3.5
    assert best.cost({"speech/distillmos": math.nan}) is None
    assert best.cost({"music/distillmos": 3.0, "speech/pesq": 2.0}) is None
    assert BestScore.parse("mel_distance").cost({"a/mel_distance": 1.0, "b/mel_distance": 3.0, "c/pesq": 9.0}) == 2.0


@pytest.mark.parametrize(
    ("best", "message"),
    [
        ("speech/distilmos", "there is no metric distilmos; choose from distillmos, "),
        ("likeness", "there is no metric likeness"),
        ("singing/mel_distance", "no score singing/mel_distance; it is measured in music, speech"),
        ("music/stoi", "no score music/stoi; it is measured in speech"),
        (f"{__name__}:UNDIRECTED", "undirected has no direction"),
    ],
)
def test_a_score_that_cannot_choose_a_checkpoint_is_refused(tmp_path: Path, best: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Validation(clips_of("speech", "music"), tmp_path, 6.0, best=best)


UNDIRECTED = Metric("undirected", "undirected", level_of_error)


def test_a_group_of_speech_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no group talk; the groups are speech, music"):
        Validation(clips_of("speech", "music"), tmp_path, 6.0, speech_groups=["talk"])


@pytest.mark.parametrize("count", [-1, 1.5])
def test_the_number_of_samples_is_checked(tmp_path: Path, count: Any) -> None:
    with pytest.raises(ValueError, match=rf"validation\.samples_per_group must be .* got {count}"):
        Validation([], tmp_path, 6.0, samples_per_group=count)
