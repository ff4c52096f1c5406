"""A run that a signal stops, or that saves by the clock, ends with the same bits as any other."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codec.training import Trainer, TrainingData, TrainingStopped
from codec.training.distributed import Processes
from codec.training.interruptions import Interruptions
from data import Segment
from tiny_run import (
    RATE,
    SAMPLES,
    copied,
    differences,
    initialized,
    messages,
    metric_lines,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
    tones,
)

TIMES = ("seconds", "audio_seconds_per_second", "data_wait_fraction", "seconds_per_step")


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def make(folder: Path, **settings: Any) -> Trainer:
    """Nine steps with records, validations and checkpoints at other steps than those of the interruptions."""
    intervals = {"log_every": 4, "validate_every": 4, "checkpoint_every": 6}
    return tiny_trainer(
        folder, adversarial=tiny_adversarial(update_probability=0.6), max_steps=9, **(intervals | settings)
    )


def signal_at(trainer: Trainer, step: int, number: int = signal.SIGTERM) -> None:
    """Sends the signal to this process in the loss of a step."""

    def send(*_: object) -> None:
        if trainer.step == step:
            handle.remove()
            os.kill(os.getpid(), number)

    handle = trainer.codec.decoder.register_forward_hook(send)


def state(trainer: Trainer) -> dict[str, Any]:
    kept = {name: value for name, value in trainer.state_dict().items() if name != "seconds"}
    found: dict[str, Any] = copied(kept)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """An uninterrupted run. Tests only read it."""
    with tidied():
        trainer = make(tmp_path_factory.mktemp("whole"))
        trainer.run()
    return trainer


def status(trainer: Trainer) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((trainer.logger.folder / "status.json").read_text(encoding="utf-8"))
    return content


def test_a_stopped_run_is_saved_and_ends_with_the_same_bits_and_records(tmp_path: Path, whole: Trainer) -> None:
    for step, number in ((1, signal.SIGTERM), (4, signal.SIGINT), (6, signal.SIGUSR1)):
        trainer = make(tmp_path / "stopped")
        signal_at(trainer, step, number)
        signal_at(trainer, step, signal.SIGTERM)  # of torchrun, after SLURM's to all processes
        with pytest.raises(TrainingStopped, match=f"^saved at step {step + 1}; resume with: ") as stop:
            trainer.run()
        assert stop.value.exit_status == 128 + number
        assert max(trainer.store.steps()) == step + 1
        assert status(trainer)["state"] == "stopped"
        assert status(trainer)["message"] == str(stop.value)
        assert str(stop.value) in (trainer.logger.folder / "log.txt").read_text(encoding="utf-8")
    last = make(tmp_path / "stopped")
    last.run()
    assert differences(state(last), state(whole)) == []
    for split in ("train", "validation"):
        assert metric_lines(last, split, TIMES) == metric_lines(whole, split, TIMES)
    assert [line["step"] for line in metric_lines(last)] == [4, 8, 9]
    assert status(last)["state"] == "finished"


class Tones:
    """A stream of seven tones that begins again at its end."""

    sample_rate, segment_samples = RATE, SAMPLES

    def __init__(self) -> None:
        self.position = 0

    def shard(self, num_shards: int, index: int) -> "Tones":
        assert (num_shards, index) == (1, 0)
        return Tones()

    def __iter__(self) -> Iterator[Segment]:
        while self.position < 7:
            self.position += 1
            yield Segment(tones(1, SAMPLES, self.position)[0])
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def test_a_stopped_run_continues_its_stream_of_audio(tmp_path: Path) -> None:
    states = []
    for name, stops in (("whole", ()), ("stopped", (1, 5))):
        for stop in (*stops, None):
            trainer = make(tmp_path / name)
            trainer.data = trainer.startup.data = TrainingData(Tones(), 2, 0)
            if stop is None:
                trainer.run()
                continue
            signal_at(trainer, stop)
            with pytest.raises(TrainingStopped):
                trainer.run()
        states.append(state(trainer))
    assert differences(*states) == []


def test_handlers_are_restored_and_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """nohup ignores SIGHUP, and shells ignore SIGINT in background jobs."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        trainer = make(tmp_path)
        signal_at(trainer, 1, signal.SIGHUP)
        trainer.run()
        assert trainer.step == 9
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_after_a_signal_stops_at_once_and_names_the_last_checkpoint(tmp_path: Path, whole: Trainer) -> None:
    trainer = make(tmp_path / "twice")
    signal_at(trainer, 7)
    signal_at(trainer, 7, signal.SIGINT)
    with pytest.raises(TrainingStopped, match=r"^stopped at step 7; the last checkpoint is that of step 6; resume"):
        trainer.run()
    resumed = make(tmp_path / "twice")
    resumed.run()
    assert "resumed at step 6" in messages(resumed)
    assert differences(state(resumed), state(whole)) == []


def test_a_signal_before_the_first_step_stops_at_once(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    validate = trainer.validation.run

    def send(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*args)

    trainer.validation.run = send  # type: ignore[method-assign]
    with pytest.raises(TrainingStopped, match=r"^stopped at step 0; there is no checkpoint; start again with") as stop:
        trainer.run()
    assert stop.value.exit_status == 128 + signal.SIGTERM
    assert status(trainer)["state"] == "stopped"


def test_a_signal_in_the_last_step_does_not_matter(tmp_path: Path, whole: Trainer) -> None:
    trainer = make(tmp_path)
    signal_at(trainer, 8)
    trainer.run()
    assert differences(state(trainer), state(whole)) == []


def test_checkpoints_by_the_clock_change_nothing_else(tmp_path: Path, whole: Trainer) -> None:
    trainer = make(tmp_path, checkpoint_minutes=1e-9)
    saved = []
    save = trainer.store.save

    def record(step: int, *args: Any) -> Path:
        saved.append(step)
        return save(step, *args)

    trainer.store.save = record  # type: ignore[method-assign]
    trainer.run()
    assert saved == list(range(10))
    assert trainer.divergence_monitor.protected_steps == whole.divergence_monitor.protected_steps
    assert differences(state(trainer), state(whole)) == []
    assert metric_lines(trainer, "train", TIMES) == metric_lines(whole, "train", TIMES)


def test_the_time_counts_from_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("codec.training.interruptions.time.monotonic", lambda: now[0])
    interruptions = Interruptions(2, Processes(), lambda: "")
    votes = []
    for now[0] in (1119.0, 1120.0):
        votes.append(interruptions.votes().tolist())
    interruptions.saved()
    now[0] = 1239.0
    votes.append(interruptions.votes().tolist())
    assert votes == [[True, True], [True, False], [True, True]]
    assert Interruptions(None, Processes(), lambda: "").votes().tolist() == [True, True]


def test_a_stop_without_a_checkpoint_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full."""
    trainer = make(tmp_path)

    def fail(path: Path, checkpoint: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codec.training.checkpoint.store.write_checkpoint", fail)
    signal_at(trainer, 2)
    with pytest.raises(TrainingStopped, match=r"^stopped at step 3; there is no checkpoint; start again with: "):
        trainer.run()
    assert any("No space left on device" in message for message in messages(trainer))


def test_a_finished_run_makes_no_step_and_no_validation(tmp_path: Path, whole: Trainer) -> None:
    shutil.copytree(whole.logger.folder, tmp_path / "run")
    again = make(tmp_path)
    assert again.run() == {}
    assert again.was_finished
    assert not whole.was_finished
    assert messages(again)[-1] == "the run was finished at step 9: nothing is left to train"
    assert metric_lines(again, "validation") == metric_lines(whole, "validation")


def test_a_failed_run_says_why_in_its_status(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()))
    trainer.validate = lambda: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert (status(trainer)["state"], status(trainer)["message"]) == ("failed", "division by zero")
