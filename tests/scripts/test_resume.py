"""Exact resume, in one process and of processes that are really killed, and disks that are full."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from codec.model_file import fingerprint, load_model
from codec.training import (
    CheckpointError,
    CheckpointStore,
    CodebookConfig,
    LRSchedule,
    Trainer,
)
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

TIMES = ("seconds", "audio_seconds_per_second", "data_wait_fraction")
ALL_BOOKS = CodebookConfig(dropout="none", init_batches=2)
NEVER: dict[str, Any] = {"log_every": 1000, "validate_every": 1000, "checkpoint_every": 1000}
ROOT = Path(__file__).resolve().parents[2]
STEPS = 12
SETTINGS = [
    "data=clips", "name=tiny", "trainer.precision=float32", "validation.bandwidth_kbps=2.4",
    "codec.network.filters=4", "codec.network.strides=[4,5,8]", "codec.network.latent_dim=16",
    "codec.quantizer.num_codebooks=4", "codec.quantizer.codebook_size=16", "codec.bandwidths_kbps=[0.6,1.2,2.4]",
    "discriminator.filters=2", "discriminator.windows=[64,32]", "losses.terms.mel.window_exponents=[5,6]",
    "+losses.terms.tonality.window_samples=512",
    "data.batch_size=2", "data.segment_seconds=0.0667", "data.held_out.seconds=0.2",
    "data.held_out.clips_per_source=1", f"trainer.max_steps={STEPS}", "trainer.log_every=2",
    "trainer.validate_every=6", "trainer.checkpoint_every=3", "trainer.codebooks.start_fraction=0.4",
    "trainer.freeze_encoder_at=0.7", "trainer.codebooks.init_batches=2",
    "adversarial.start_fraction=0.2", "adversarial.update_probability=0.7",
]  # fmt: skip

# Runs scripts.train, and kills its own process at the n-th call of a function.
KILLED = """
import os, runpy, signal, sys
import torch
import codec.training.checkpoint.store as checkpoint

calls = int(sys.argv[2])

def dying(function, last_words=lambda *args: None):
    def wrapped(*args, **kwargs):
        global calls
        calls -= 1
        result = function(*args, **kwargs)
        if not calls:
            last_words(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

def halve(file, *rest):
    file.flush()
    file.truncate(file.tell() // 2)

if sys.argv[1] == "backward":
    torch.autograd.backward = dying(torch.autograd.backward)
elif sys.argv[1] == "checkpoint half written":
    checkpoint.write_archive = dying(checkpoint.write_archive, halve)
else:
    checkpoint._write_durably = dying(checkpoint._write_durably)
sys.argv = sys.argv[2:]
runpy.run_module("scripts.train", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


# ------------------------------------------------------------------------------------------------ in one process


def _without_times(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "seconds"}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("encodec", [False, True])
def test_three_steps_a_checkpoint_and_three_steps_are_six(tmp_path: Path, workers: int, encodec: bool) -> None:
    """Discriminator, balancer and codebook start lie on both sides of the interruption."""

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

    whole = make(tmp_path / "a", 0)
    whole.run()
    first = make(tmp_path / "b", 0)
    interrupt_at(first, 5)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    torch.manual_seed(77)  # what a new process has drawn already does not matter
    second = make(tmp_path / "b", 5)
    second.run()

    assert messages(second)[0] == "resumed at step 3"
    assert differences(_without_times(whole.state_dict()), _without_times(second.state_dict())) == []
    for split in ("train", "validation"):
        assert metric_lines(whole, split, TIMES) == metric_lines(second, split, TIMES)
    models = [exported(tmp_path / name / "run") for name in "ab"]
    assert models[0] == models[1]


def test_every_part_of_the_state_matters(tmp_path: Path) -> None:
    """The comparison above would see a part that was left out: each of them differs after three more steps."""
    trainer = tiny_trainer(tmp_path, adversarial=tiny_adversarial(), encodec=True, codebooks=ALL_BOOKS)
    trainer._initialize_codebooks()
    take_steps(trainer, 3)
    before = copied(trainer.state_dict())
    take_steps(trainer, 1)
    changed = {place.split("/")[1] for place in differences(before, trainer.state_dict())}
    assert changed == {
        "codec", "average", "optimizer", "adversarial", "adversarial_optimizer", "balancer", "step"
    }  # fmt: skip
    assert set(before) - changed == {
        "codec_config", "divergence_monitor", "seconds", "skipped", "skipped_in_a_row", "encoder_frozen", "random"
    }  # fmt: skip
    trainer._log()
    assert {place.split("/")[1] for place in differences(before, trainer.state_dict())} == changed | {
        "divergence_monitor"
    }


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    first = tiny_trainer(tmp_path, log_every=1)
    interrupt_at(first, 4)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert [line["step"] for line in metric_lines(first)] == [1, 2, 3, 4]
    second = tiny_trainer(tmp_path, log_every=1)
    second.run()
    assert [line["step"] for line in metric_lines(second)] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metric_lines(second, "validation")] == [0, 6]


def test_a_model_is_there_once_the_last_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two must not leave a finished run with the model of an earlier step."""
    trainer = tiny_trainer(tmp_path, log_every=1000, validate_every=1000, checkpoint_every=3)
    save, models = trainer.store.save, []

    def look(step: int, state: dict[str, Any], *rest: Any) -> Path:
        if step:
            model = load_model(tmp_path / "run" / "model.safetensors")
            models.append(fingerprint(model) == fingerprint(trainer.averaged_codec))
        return save(step, state, *rest)

    monkeypatch.setattr(trainer.store, "save", look)
    trainer.run()
    assert models == [True, True]


def test_a_finished_run_makes_no_further_step(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    scores = trainer.run()
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.suffix in (".pt", ".jsonl")}
    assert len(files) >= 2
    again = tiny_trainer(tmp_path)
    assert again.run() == scores
    assert again.step == 6
    assert {path: path.read_bytes() for path in files} == files


def test_half_a_reference_does_not_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(tmp_path)

    def killed(path: Path, audio: Tensor, sample_rate: int) -> None:
        Path(path).write_bytes(b"RIFF")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("codec.training.validation.write_audio", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.validate()
    trainer.validate()
    samples = tmp_path / "run" / "samples"
    assert (samples / "speech.reference.wav").stat().st_size == 44 + 2 * 3200


def test_bfloat16_resumes_exactly(tmp_path: Path) -> None:
    plan: dict[str, Any] = {
        "precision": "bfloat16",
        "log_every": 2,
        "validate_every": 1000,
        "checkpoint_every": 3,
        "codebooks": ALL_BOOKS,
    }
    whole = tiny_trainer(tmp_path / "a", adversarial=tiny_adversarial(), **plan)
    whole.run()
    first = tiny_trainer(tmp_path / "b", adversarial=tiny_adversarial(), **plan)
    interrupt_at(first, 4)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = tiny_trainer(tmp_path / "b", adversarial=tiny_adversarial(seed=8), codec=tiny_codec(seed=8), **plan)
    second.run()
    assert differences(_without_times(whole.state_dict()), _without_times(second.state_dict())) == []


# ------------------------------------------------------------------------------------------------ full disk


def test_a_checkpoint_that_cannot_be_written_is_reported_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_disk_that_is_full_in_mid_run_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    """Every file that would grow beyond some kilobytes fails, checkpoint and exported model alike."""
    resource = pytest.importorskip("resource")
    trainer = tiny_trainer(tmp_path, log_every=1000, validate_every=1000, checkpoint_every=2, max_steps=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(module: nn.Module, args: Any) -> None:
        if trainer.step == 2:  # Python ignores SIGXFSZ: writing fails with an OSError
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    trainer.codec.register_forward_pre_hook(fill)
    try:
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


@pytest.mark.parametrize("error", [OSError("disk on fire"), SafetensorError("disk on fire")])
def test_a_model_that_cannot_be_written_does_not_cost_the_checkpoint(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(tmp_path, **NEVER)

    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(trainer.averaged_codec, "save", fail)
    trainer.run()
    assert [path.name for path in trainer.store.paths()] == ["step_0000000.pt", "step_0000006.pt"]
    assert any("disk on fire" in message for message in messages(trainer))


# ------------------------------------------------------------------------------------------------ killed processes


class Result(NamedTuple):
    """What a run leaves behind, but for times."""

    model: bytes
    state: dict[str, Any]
    best_step: int
    metrics: list[dict[str, Any]]


def _start(runs: Path, *extra: str, kill_at: tuple[str, int] | None = None) -> "subprocess.Popen[bytes]":
    """Starts a run that writes to files: a pipe would stay open until the readers of a killed run end, too."""
    command = ["-m", "scripts.train"] if kill_at is None else ["-c", KILLED, kill_at[0], str(kill_at[1])]
    with open(runs / "output.txt", "w") as output, open(runs / "errors.txt", "w") as errors:
        return subprocess.Popen(
            [sys.executable, *command, *SETTINGS, f"runs_folder={runs}", *extra],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=errors,
        )


def _train(runs: Path, *extra: str, kill_at: tuple[str, int] | None = None) -> tuple[int, str, str]:
    """Exit status, output and error output of a run to its end, natural or not."""
    process = _start(runs, *extra, kill_at=kill_at)
    try:
        status = process.wait(timeout=300)
    finally:
        process.kill()
        process.wait()
    return status, (runs / "output.txt").read_text(), (runs / "errors.txt").read_text()


def _result(runs: Path) -> Result:
    folder = runs / "tiny"
    store = CheckpointStore(folder / "checkpoints")
    newest, best = store.load_newest(), store.load_best()
    assert newest is not None
    assert best is not None
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return Result(
        exported(folder),
        {name: value for name, value in newest.state.items() if name != "seconds"},
        best.step,
        [{name: value for name, value in record.items() if name not in TIMES} for record in records],
    )


def _assert_same(result: Result, wanted: Result) -> None:
    assert result.model == wanted.model
    assert differences(result.state, wanted.state) == []
    assert result.best_step == wanted.best_step
    assert result.metrics == wanted.metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a run that was never interrupted; every test leaves it as it was."""
    runs = tmp_path_factory.mktemp("runs")
    status, output, errors = _train(runs)
    assert status == 0, errors
    assert f"Trained for {STEPS} steps" in output
    return runs


def _steps(runs: Path) -> list[int]:
    return [int(path.stem[len("step_") :]) for path in CheckpointStore(runs / "tiny" / "checkpoints").paths()]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_the_same(tmp_path: Path, finished: Path) -> None:
    wanted = _result(finished)
    assert wanted.state["step"] == STEPS
    assert bool(wanted.state["codec"]["quantizer.is_initialized"])
    checkpoints = tmp_path / "tiny" / "checkpoints"

    # In the middle of a step, before there is any checkpoint but that of the start.
    assert _train(tmp_path, kill_at=("backward", 2))[0] == -signal.SIGKILL
    assert _steps(tmp_path) == [0]

    # From outside, as soon as the next checkpoint is there: wherever the process then is.
    process = _start(tmp_path)
    deadline = time.monotonic() + 60
    while _steps(tmp_path) == [0] and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    begun = _steps(tmp_path)[-1]
    assert 3 <= begun < STEPS

    # While the next checkpoint is being written.
    assert _train(tmp_path, kill_at=("checkpoint half written", 1))[0] == -signal.SIGKILL
    assert _steps(tmp_path)[-1] == begun
    assert [path.name for path in checkpoints.glob(".*.partial")] == [f".step_{begun + 3:07d}.pt.partial"]

    # Just after a checkpoint took its place, before those that are outdated went.
    assert _train(tmp_path, kill_at=("checkpoint written", 1))[0] == -signal.SIGKILL
    assert _steps(tmp_path)[-1] == begun + 3

    status, output, errors = _train(tmp_path)
    assert status == 0, errors
    assert f"resumed at step {begun + 3}" in output
    _assert_same(_result(tmp_path), wanted)
    assert not list(checkpoints.glob(".*.partial"))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(finished: Path) -> None:
    wanted = _result(finished)
    newest = CheckpointStore(finished / "tiny" / "checkpoints").paths()[-1]
    with open(newest, "r+b") as file:
        file.seek(newest.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    (finished / "tiny" / "model.safetensors").unlink()

    status, output, errors = _train(finished)
    assert status == 0, errors
    assert f"checkpoint {newest} is not used: it is damaged" in output
    assert "resumed at step 9" in output
    _assert_same(_result(finished), wanted)


@pytest.mark.slow
def test_a_finished_run_started_again_makes_no_step(finished: Path) -> None:
    kept = [path for path in (finished / "tiny").rglob("*") if path.suffix in (".pt", ".jsonl", ".safetensors", ".wav")]
    before = {path: path.read_bytes() for path in kept}
    status, output, errors = _train(finished)
    assert status == 0, errors
    assert f"resumed at step {STEPS}" in output
    assert "Held out, at 2.4 kbps" in output
    assert {path: path.read_bytes() for path in kept} == before


@pytest.mark.slow
def test_a_run_with_other_settings_is_refused(finished: Path) -> None:
    config = (finished / "tiny" / "config.yaml").read_bytes()
    status, _, errors = _train(finished, "balancer.scale.decay=0.5")
    assert status == 1
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert "balancer.scale.decay was 0.999, is 0.5" in line
    assert (finished / "tiny" / "config.yaml").read_bytes() == config
