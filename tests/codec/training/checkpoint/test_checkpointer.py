"""A resumed run ends with the same bits as an uninterrupted one, and full disks cost no earlier checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from codec.model_file import fingerprint, load_model
from codec.training import CheckpointError, CodebookConfig, LRSchedule, Trainer
from tiny_run import (
    copied,
    differences,
    exported,
    interrupt_at,
    messages,
    metric_lines,
    take_steps,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
)

TIMES = ("seconds", "audio_seconds_per_second", "data_wait_fraction", "seconds_per_step")
ALL_CODEBOOKS = CodebookConfig(dropout="none", init_batches=2)
NEVER: dict[str, Any] = {"log_every": 1000, "validate_every": 1000, "checkpoint_every": 1000}


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def _without_times(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "seconds"}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("encodec", [False, True])
def test_a_run_resumed_at_its_middle_ends_with_the_same_bits(tmp_path: Path, workers: int, encodec: bool) -> None:
    """The discriminator starts before the interruption, the codebooks are initialized after it."""

    def make(folder: Path, seed: int) -> Trainer:
        return tiny_trainer(
            folder,
            codec=tiny_codec(seed),
            adversarial=tiny_adversarial(seed + 1, update_probability=0.6, start_fraction=0.2),
            encodec=encodec,
            workers=workers,
            gradient_clip_norm=0.5,
            codebooks=CodebookConfig(start_fraction=0.6, init_batches=2, dropout="codebooks"),
            lr_schedule=LRSchedule(warmup_fraction=0.3, decay="cosine"),
            log_every=2,
            validate_every=2,
            checkpoint_every=3,
        )

    uninterrupted = make(tmp_path / "a", 0)
    uninterrupted.run()
    first = make(tmp_path / "b", 0)
    interrupt_at(first, 5)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    torch.manual_seed(77)  # earlier draws of a new process do not matter
    second = make(tmp_path / "b", 5)
    second.run()

    assert messages(second)[0] == "resumed at step 3"
    assert differences(_without_times(uninterrupted.state_dict()), _without_times(second.state_dict())) == []
    for split in ("train", "validation"):
        assert metric_lines(uninterrupted, split, TIMES) == metric_lines(second, split, TIMES)
    models = [exported(tmp_path / name / "run") for name in "ab"]
    assert models[0] == models[1]


def test_a_step_changes_every_part_of_the_state(tmp_path: Path) -> None:
    """So a part that is missing in the state would fail the comparison above."""
    trainer = tiny_trainer(tmp_path, adversarial=tiny_adversarial(), encodec=True, codebooks=ALL_CODEBOOKS)
    trainer._initialize_codebooks()
    take_steps(trainer, 3)
    before = copied(trainer.state_dict())
    take_steps(trainer, 1)
    changed = {place.split("/")[1] for place in differences(before, trainer.state_dict())}
    assert changed == {
        "codec", "average", "optimizer", "adversarial", "adversarial_optimizer", "balancer", "step"
    }  # fmt: skip
    assert set(before) - changed == {
        "codec_config", "divergence_monitor", "seconds", "skipped", "encoder", "meters", "random"
    }  # fmt: skip
    trainer._log()
    assert {place.split("/")[1] for place in differences(before, trainer.state_dict())} == changed | {
        "divergence_monitor"
    }


def test_a_run_stopped_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    first = tiny_trainer(tmp_path, log_every=1)
    interrupt_at(first, 4)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert [line["step"] for line in metric_lines(first)] == [1, 2, 3, 4]
    second = tiny_trainer(tmp_path, log_every=1)
    second.run()
    assert [line["step"] for line in metric_lines(second)] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metric_lines(second, "validation")] == [0, 6]


def test_the_model_is_written_before_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two must not leave a finished run with the model of an earlier step."""
    trainer = tiny_trainer(tmp_path, log_every=1000, validate_every=1000, checkpoint_every=3)
    save, models = trainer.store.save, []

    def record(step: int, state: dict[str, Any], *rest: Any) -> Path:
        if step:
            model = load_model(tmp_path / "run" / "model.safetensors")
            models.append(fingerprint(model) == fingerprint(trainer.averaged_codec))
        return save(step, state, *rest)

    monkeypatch.setattr(trainer.store, "save", record)
    trainer.run()
    assert models == [True, True]


def test_a_finished_run_makes_no_further_step(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.run()
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.suffix in (".pt", ".jsonl")}
    assert len(files) >= 2
    again = tiny_trainer(tmp_path)
    assert again.run() == {}
    assert again.step == 6
    assert {path: path.read_bytes() for path in files} == files


def test_an_incomplete_reference_clip_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("codec.audio.writer.AudioWriter.write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.validate()
    trainer.validate()
    samples = tmp_path / "run" / "samples"
    assert (samples / "speech.reference.wav").stat().st_size == 44 + 2 * 3200


def test_bfloat16_resumes_exactly(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "precision": "bfloat16",
        "log_every": 2,
        "validate_every": 1000,
        "checkpoint_every": 3,
        "codebooks": ALL_CODEBOOKS,
    }
    uninterrupted = tiny_trainer(tmp_path / "a", adversarial=tiny_adversarial(), **settings)
    uninterrupted.run()
    first = tiny_trainer(tmp_path / "b", adversarial=tiny_adversarial(), **settings)
    interrupt_at(first, 4)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = tiny_trainer(tmp_path / "b", adversarial=tiny_adversarial(seed=8), codec=tiny_codec(seed=8), **settings)
    second.run()
    assert differences(_without_times(uninterrupted.state_dict()), _without_times(second.state_dict())) == []


# ------------------------------------------------------------------------------------------------ full disk


def test_training_continues_after_a_failed_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(tmp_path, log_every=100, validate_every=100, checkpoint_every=2)
    save = trainer.store.save

    def full(step: int, state: dict[str, Any], *rest: Any) -> Path:
        if step == 4:
            raise CheckpointError("no space left on the device")
        return save(step, state, *rest)

    monkeypatch.setattr(trainer.store, "save", full)
    trainer.run()
    assert trainer.store.steps() == {0, 2, 6}  # 0 is the good one
    assert any("no space left on the device" in message for message in messages(trainer))


def test_a_full_disk_does_not_damage_earlier_checkpoints(tmp_path: Path) -> None:
    """Every file above 20 kB fails, both the checkpoint and the exported model."""
    resource = pytest.importorskip("resource")
    trainer = tiny_trainer(tmp_path, log_every=1000, validate_every=1000, checkpoint_every=2, max_steps=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(module: nn.Module, args: Any) -> None:
        if trainer.step == 2:  # Python ignores SIGXFSZ: writing fails with an OSError
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    trainer.codec.register_forward_pre_hook(fill)
    try:
        with pytest.raises(CheckpointError, match=r"step 4, the last of the run, .* that of step 2: free space"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert trainer.step == 4
    for file in ("model", "checkpoint"):
        assert any(message.startswith(f"{file} not saved") for message in messages(trainer))
    assert [path.name for path in trainer.store.paths()] == ["step_0000000.pt", "step_0000002.pt"]
    again = tiny_trainer(tmp_path)
    assert again.resume()
    assert again.step == 2
    load_model(tmp_path / "run" / "model.safetensors")


def test_the_checkpoint_is_written_when_the_model_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(tmp_path, **NEVER)

    def fail(model: nn.Module, path: Path) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr("codec.training.checkpoint.checkpointer.save_model", fail)
    trainer.run()
    assert [path.name for path in trainer.store.paths()] == ["step_0000000.pt", "step_0000006.pt"]
    assert any("disk on fire" in message for message in messages(trainer))
