"""A divergence is detected and rolled back, other problems are reported once, and a healthy run has neither."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codec.audio import write_audio
from codec.evaluation.report import diagnostics
from codec.evaluation.report.advice import advice
from codec.model import Codec
from codec.training import CheckpointStore, CodebookConfig, RollbackConfig, Trainer, TrainingError
from codec.training import trainer as trainer_module
from codec.training.checkpoint.divergence import DivergenceError, DivergenceMonitor
from codec.training.logging import meters
from codec.training.schedule import LRScheduler
from data import SegmentDataset
from tiny_run import (
    RATE,
    copied,
    differences,
    interrupt_at,
    messages,
    metric_lines,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
)

# A word of each diagnostic, on the console and in the report.
WORDS = ("diverge", "silent", "collapsed", "dead:", "too strong", "is unstable", "learns nothing", "waiting for data")


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def reported(trainer: Trainer) -> list[str]:
    """Words of the diagnostics on the console. The report must list the same ones."""
    printed = [word for word in WORDS if any(word in message for message in messages(trainer))]
    in_report = advice(metric_lines(trainer, "validation")[:1] + metric_lines(trainer))
    assert [word for word in WORDS if any(word in sentence for sentence in in_report)] == printed
    return printed


def adam(rate: float) -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.Adam, lr=rate, betas=(0.5, 0.9))


def at_rate(trainer: Trainer, rate: float) -> Trainer:
    trainer.optimizer.param_groups[0]["lr"] = rate
    trainer.lr_scheduler = LRScheduler(trainer.config.lr_schedule, trainer.optimizers)
    return trainer


def with_dead_code_replacement(**config: Any) -> Codec:
    codec = tiny_codec(**config)
    codec.quantizer.dead_code_threshold = 0.1
    return codec


# ------------------------------------------------------------------------------------------------ a healthy run


def test_a_healthy_run_with_a_discriminator_reports_nothing(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path,
        codec=with_dead_code_replacement(),
        adversarial=tiny_adversarial(),
        max_steps=26,
        log_every=1,
        validate_every=10,
        checkpoint_every=10,
    )
    trainer.run()
    assert reported(trainer) == []
    assert trainer.divergence_monitor.rollbacks == 0
    assert trainer.divergence_monitor.good_step == 20


# ------------------------------------------------------------------------------------------------ divergence


def test_a_learning_rate_that_is_100_times_too_high_is_lowered_until_training_converges(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"max_steps": 40, "log_every": 2, "validate_every": 20, "checkpoint_every": 20}
    trainer = at_rate(tiny_trainer(tmp_path, codec=with_dead_code_replacement(), **plan), 1.0)
    trainer.run()
    found = [re.search(r"Rolling back to step (\d+) with (\S+) times", message) for message in messages(trainer)]
    rates = [float(match[2]) for match in found if match]
    assert 1 <= len(rates) <= 3
    assert rates == [0.5**n for n in range(1, len(rates) + 1)]
    assert trainer.divergence_monitor.rollbacks == len(rates)
    first, *_, last = metric_lines(trainer, "validation")
    assert last["speech/mel_distance"] < 0.7 * first["speech/mel_distance"]
    log = metric_lines(trainer)
    assert [line["step"] for line in log] == list(range(2, 41, 2))  # the removed steps are not in the log
    assert log[-1]["lr"] == rates[-1]
    assert reported(trainer) == ["diverge"]


def test_a_run_that_diverges_again_and_again_ends_with_an_error(tmp_path: Path) -> None:
    rollback = RollbackConfig(max_rollbacks=2, lr_factor=0.1)
    trainer = at_rate(tiny_trainer(tmp_path, max_steps=40, rollback=rollback, max_skipped_steps=3), 1e9)
    with pytest.raises(TrainingError, match=r"rolled back 2 times, finally with 0\.01 times the learning rates"):
        trainer.run()
    assert trainer.step < 10
    # Resumed, it ends with the same error.
    again = at_rate(tiny_trainer(tmp_path, max_steps=40, rollback=rollback, max_skipped_steps=3), 1e9)
    with pytest.raises(TrainingError, match="rolled back 2 times"):
        again.run()


class Poisoned(nn.Module):
    """L1, multiplied by ten between two steps while the learning rate is the initial one."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.trainer: Trainer | None = None
        self.first, self.last = first, last

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        loss = (estimate - reference).abs().mean()
        trainer = self.trainer
        poisoned = trainer is not None and estimate.requires_grad and self.first <= trainer.step <= self.last
        return 10 * loss if poisoned and trainer.divergence_monitor.lr_factor == 1 else loss  # type: ignore[union-attr]


def poisoned(folder: Path, keep_last: int = 1) -> Trainer:
    """Diverges at step 14, which is detected five records later. A checkpoint is saved every second step."""
    loss = Poisoned(14, 20)
    trainer = tiny_trainer(folder, losses={"l1": loss}, max_steps=20, log_every=1, validate_every=4, checkpoint_every=2)
    trainer.store.keep_last = keep_last
    loss.trainer = trainer
    return trainer


def test_a_rollback_skips_checkpoints_that_may_have_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = poisoned(tmp_path)
    saved: list[tuple[int, float, set[int]]] = []
    save = trainer.store.save

    def record(step: int, *rest: Any) -> Path:
        path = save(step, *rest)
        saved.append((step, trainer.divergence_monitor.lr_factor, trainer.store.steps()))
        return path

    monkeypatch.setattr(trainer.store, "save", record)
    trainer.run()
    steps = [(step, rate) for step, rate, _ in saved]
    turn = next(i for i, (_, rate) in enumerate(steps) if rate < 1)
    # The losses of steps 15 to 19 are out of range. The checkpoints of steps 16 and 18 were saved in between. No record
    # in range follows that of step 14. Six follow that of step 8.
    assert steps[turn - 1] == (18, 1.0)
    good = steps[turn][0]
    assert good == 8
    assert steps[turn + 1 :] == [(step, 0.5) for step in range(good + 2, 21, 2)]
    assert all(good in there for step, rate, there in saved if 14 <= step < 20 and rate == 1)
    assert max(len(there) for _, _, there in saved) <= 3  # the newest, the good one and the candidate
    assert trainer.store.steps() == {20} | trainer.divergence_monitor.protected_steps
    assert [line["rollbacks"] for line in metric_lines(trainer)] == [0] * 8 + [1] * 12
    assert [line["lr"] for line in metric_lines(trainer)] == [1e-3] * 8 + [5e-4] * 12


def final_state(trainer: Trainer) -> Any:
    return copied({k: v for k, v in trainer.state_dict().items() if k != "seconds"})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """An uninterrupted run with a rollback. Tests only read it."""
    with tidied():
        trainer = poisoned(tmp_path_factory.mktemp("uninterrupted"))
        trainer.run()
    return trainer


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_run_that_is_killed_during_a_rollback_ends_with_the_same_bits(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch, uninterrupted: Trainer
) -> None:
    first = poisoned(tmp_path)

    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "before":
            patch.setattr(CheckpointStore, "remove_after", die)
        elif moment == "between":
            patch.setattr(first.divergence_monitor, "rolled_back", die)
        else:
            patch.setattr(first.validation, "forget_after", die)  # after the new checkpoint
        with pytest.raises(KeyboardInterrupt):
            first.run()
    second = poisoned(tmp_path)
    second.run()
    assert second.divergence_monitor.rollbacks == 1
    assert differences(final_state(uninterrupted), final_state(second)) == []
    kept = ("step", "loss/l1", "lr", "rollbacks")
    logs = [[{k: line[k] for k in kept} for line in metric_lines(each)] for each in (uninterrupted, second)]
    assert logs[0] == logs[1]
    models = [(each.logger.folder / "model.safetensors").read_bytes() for each in (uninterrupted, second)]
    assert models[0] == models[1]


def test_a_run_resumes_exactly_after_a_rollback(tmp_path: Path, uninterrupted: Trainer) -> None:
    first = poisoned(tmp_path)
    interrupt_at(first, 19)  # after the rollback; before it, step 19 was not reached again
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert first.divergence_monitor.rollbacks == 1
    second = poisoned(tmp_path)
    second.run()
    assert differences(final_state(uninterrupted), final_state(second)) == []


def test_without_rollbacks_a_divergence_is_only_reported(tmp_path: Path) -> None:
    loss = Poisoned(13, 20)
    trainer = tiny_trainer(
        tmp_path,
        losses={"l1": loss},
        max_steps=20,
        log_every=1,
        validate_every=9,
        checkpoint_every=9,
        rollback=RollbackConfig(0),
    )
    loss.trainer = trainer
    trainer.run()
    assert sum("Training diverges: at step 18 l1 is" in message for message in messages(trainer)) == 1
    assert metric_lines(trainer)[-1]["lr"] == 1e-3


# ------------------------------------------------------------------------------------------------ checkpoints


def monitored(events: str) -> DivergenceMonitor:
    """`.` is a record in range, `x` one out of range, `s` a checkpoint, `v` a validation in range; one step each."""
    monitor = DivergenceMonitor(RollbackConfig(), lambda text: None)
    monitor.register_checkpoint(0)
    for step, event in enumerate(events, 1):
        if event == "s":
            monitor.register_checkpoint(step)
        elif event == "v":
            monitor.update("validation", step, {"speech/mel_distance": 1.0})
        else:
            monitor.update("train", step, {"loss/mel": 1.0 if event == "." else 9.0})
    return monitor


@pytest.mark.parametrize(
    ("events", "good", "protected"),
    [
        ("..........s.....v", 0, {0, 11}),
        ("..........s......", 0, {0, 11}),  # not validated yet
        ("..........s......v", 11, {11}),
        ("..........s.v.....", 11, {11}),
        ("..........s.x..v......", 0, {0}),
        ("..........xs......v", 0, {0}),
        ("..........s.s.s....v", 11, {11}),  # one candidate at a time
        ("..........s.s.s....vs.", 11, {11, 21}),
    ],
)
def test_a_checkpoint_is_good_after_records_and_a_validation_in_range(
    events: str, good: int, protected: set[int]
) -> None:
    monitor = monitored(events)
    assert monitor.good_step == good
    assert monitor.protected_steps == protected


def test_a_rollback_needs_an_existing_checkpoint() -> None:
    monitor, error = monitored("..........s......v"), DivergenceError("It diverges.")
    assert monitor.choose_rollback(error, 20, {0, 11, 14}) == (11, 1)
    assert monitor.choose_rollback(error, 20, {0, 14}) == (0, 1)
    for step, available in ((20, {14}), (11, {11, 14})):
        with pytest.raises(DivergenceError, match=r"^It diverges\.$"):
            monitor.choose_rollback(error, step, available)


def test_the_state_of_a_monitor_is_restored() -> None:
    first, second = monitored("..........s.v..."), DivergenceMonitor(RollbackConfig(), print)
    second.load_state_dict(copied(first.state_dict()))
    for monitor in (first, second):
        for step in range(17, 20):
            monitor.update("train", step, {"loss/mel": 1.0})
        assert monitor.good_step == 11
    assert first.state_dict() == second.state_dict()


# ------------------------------------------------------------------------------------------------ other diagnostics


def test_a_silent_corpus_is_reported(tmp_path: Path) -> None:
    for number in range(2):
        write_audio(tmp_path / "audio" / f"{number}.wav", torch.zeros(1, RATE), RATE)
    trainer = tiny_trainer(tmp_path, max_steps=8, log_every=1, validate_every=100, checkpoint_every=100)
    trainer.run()
    assert reported(trainer) == ["silent"]
    assert sum("100 % of the training segments are silent" in message for message in messages(trainer)) == 1


def test_a_dead_codebook_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_CODEBOOK_STEPS", 30)
    trainer = tiny_trainer(
        tmp_path,
        max_steps=54,
        log_every=2,
        validate_every=100,
        checkpoint_every=100,
        codebooks=CodebookConfig(dropout="none"),
    )
    quantizer = trainer.codec.quantizer
    initialize = quantizer.initialize

    def initialize_badly(*args: Any) -> None:
        initialize(*args)
        quantizer.embed[2, 1:] = 1e3  # never the nearest
        quantizer.embed_sum.copy_(quantizer.embed * quantizer.cluster_size[..., None])

    monkeypatch.setattr(quantizer, "initialize", initialize_badly)
    trainer.run()
    assert reported(trainer) == ["dead:"]
    (said,) = (message for message in messages(trainer) if "dead" in message)
    assert re.match(r"Codebooks? (1, )?3(, 4)? of 4 (is|are) dead", said)


def test_collapsed_codebooks_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_CODEBOOK_STEPS", 10)
    codec = tiny_codec()
    with torch.no_grad():  # every latent is the same
        codec.encoder.layers[-1].conv.get_parameter("parametrizations.weight.original0").zero_()
    codec.quantizer.decay = 0.999  # a faster average follows rounding noise and uses several codes
    trainer = at_rate(
        tiny_trainer(tmp_path, codec=codec, max_steps=24, log_every=2, validate_every=100, checkpoint_every=100), 1e-12
    )
    trainer.run()
    assert reported(trainer) == ["collapsed"]


def test_a_discriminator_with_100_times_its_learning_rate_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "_WINNING_STEPS", 20)
    trainer = tiny_trainer(
        tmp_path, adversarial=tiny_adversarial(optimizer=adam(0.1)), codec=with_dead_code_replacement(),
        max_steps=44, log_every=2,
    )  # fmt: skip
    trainer.run()
    said = [message for message in messages(trainer) if "optimizer.discriminator.lr" in message]
    assert said
    assert all(message.startswith("The discriminator ") for message in said)
    assert trainer.divergence_monitor.rollbacks == 0


def test_a_discriminator_that_does_not_learn_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_SMALL_GAP_STEPS", 10)
    trainer = tiny_trainer(
        tmp_path,
        adversarial=tiny_adversarial(optimizer=adam(1e-9)),
        max_steps=16,
        log_every=2,
        validate_every=99,
        checkpoint_every=99,
    )
    trainer.run()
    assert reported(trainer) == ["learns nothing"]


def test_a_slow_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which reading a segment takes 3 s and a step of two segments 2 s."""
    now = 0.0

    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*arguments)

        return slow

    for module in (trainer_module, meters):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(SegmentDataset, "__getitem__", taking(3, SegmentDataset.__getitem__))
    monkeypatch.setattr(Trainer, "train_step", taking(2, Trainer.train_step))
    trainer = tiny_trainer(tmp_path, max_steps=8, log_every=1, validate_every=100, checkpoint_every=100)
    trainer.seconds = 60.0
    trainer.run()
    assert reported(trainer) == ["waiting for data"]
    (said,) = (message for message in messages(trainer) if "waiting for data" in message)
    assert said.startswith("75 % of the time was spent waiting for data. Raise data.num_workers")
