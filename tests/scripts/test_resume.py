"""Runs that are really killed, and corrupt checkpoints: the same command resumes, and ends with the same bits."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from codec.training import CheckpointStore
from forks import Forks
from printed import only_line
from tiny_run import differences, exported

TIMES = ("seconds", "audio_seconds_per_second", "data_wait_fraction", "seconds_per_step")
STEPS = 12
SETTINGS = [
    "experiment=starter_seanet", "data=clips", "name=tiny", "trainer.precision=float32",
    "validation.bandwidth_kbps=2.4",
    "codec.network.filters=4", "codec.network.strides=[10,16]", "codec.network.latent_dim=16",
    "codec.quantizer.num_codebooks=4", "codec.quantizer.codebook_size=16", "codec.bandwidths_kbps=[0.6,1.2,2.4]",
    "discriminator.filters=2", "discriminator.windows=[64,32]", "losses.terms.mel.window_exponents=[5,6]",
    "+losses.terms.tonality.window_samples=512",
    "data.batch_size=2", "data.segment_seconds=0.0667", "data.held_out.seconds=0.2",
    "data.held_out.clips_per_source=1", f"trainer.max_steps={STEPS}", "trainer.log_every=2",
    "trainer.validate_every=6", "trainer.checkpoint_every=3", "trainer.codebooks.start_fraction=0.4",
    "trainer.freeze_encoder_at=0.7", "trainer.codebooks.init_batches=2",
    "adversarial.start_fraction=0.2", "adversarial.update_probability=0.7",
]  # fmt: skip

Train = Callable[..., int]


@pytest.fixture(scope="module")
def train(forks: Forks) -> Train:
    """Trains in a fork, see `fork_server`; returns the exit status."""

    def request(runs: Path, *extra: str, kill: str | None = None) -> int:
        arguments = (*SETTINGS, *extra, f"runs_folder={runs}")
        return forks.run(runs, "train", *arguments, kill=kill, STARTED_AS="bash scripts/train.sh").status

    return request


class Result(NamedTuple):
    """What a run leaves in its folder, without times."""

    model: bytes
    state: dict[str, Any]
    best_step: int
    metrics: list[dict[str, Any]]


def _output(runs: Path) -> str:
    return (runs / "output.txt").read_text()


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


def _assert_same(result: Result, expected: Result) -> None:
    assert result.model == expected.model
    assert differences(result.state, expected.state) == []
    assert result.best_step == expected.best_step
    assert result.metrics == expected.metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """The runs folder of an uninterrupted run. Every test leaves it as it was."""
    runs = tmp_path_factory.mktemp("runs")
    assert train(runs) == 0, (runs / "errors.txt").read_text()
    assert f"Trained for {STEPS} steps" in _output(runs)
    status = json.loads((runs / "tiny" / "status.json").read_text(encoding="utf-8"))
    assert (status["state"], status["experiment"]) == ("finished", "starter_seanet")
    assert "bash scripts/train.sh experiment=starter_seanet name=tuned init_from=" in _output(runs)
    return runs


def _steps(runs: Path) -> list[int]:
    return sorted(CheckpointStore(runs / "tiny" / "checkpoints").steps())


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, finished: Path, train: Train
) -> None:
    expected = _result(finished)
    assert expected.state["step"] == STEPS
    assert bool(expected.state["codec"]["quantizer.is_initialized"])
    checkpoints = tmp_path / "tiny" / "checkpoints"

    # During a step, when only the initial checkpoint exists.
    assert train(tmp_path, kill="second backward") == -signal.SIGKILL
    assert _steps(tmp_path) == [0]

    # While the next checkpoint is written.
    assert train(tmp_path, kill="checkpoint half written") == -signal.SIGKILL
    assert _steps(tmp_path) == [0]
    assert [path.name for path in checkpoints.glob("*.partial")] == ["step_0000003.pt.partial"]

    # After a checkpoint was renamed, before older ones are removed.
    assert train(tmp_path, kill="checkpoint renamed") == -signal.SIGKILL
    assert _steps(tmp_path) == [0, 3]

    # From outside, as soon as the next checkpoint exists. On a loaded machine the run may end before it is killed.
    assert train(tmp_path, kill=f"SIGKILL when {checkpoints / 'step_0000006.pt'} exists") in (-signal.SIGKILL, 0)
    last = _steps(tmp_path)[-1]
    assert last >= 6

    assert train(tmp_path) == 0, (tmp_path / "errors.txt").read_text()
    assert f"resumed at step {last}" in _output(tmp_path)
    _assert_same(_result(tmp_path), expected)
    assert not list(checkpoints.glob("*.partial"))


@pytest.mark.slow
def test_a_run_that_is_stopped_by_signals_saves_and_ends_with_the_same_bits(
    tmp_path: Path, finished: Path, train: Train
) -> None:
    """Every signal reaches the loader's worker, too. Steps are not at an interval of the log or of checkpoints."""

    def stopped() -> int:
        found = re.search(
            r"^saved at step (\d+); resume with: bash scripts/train.sh ", (tmp_path / "errors.txt").read_text(), re.M
        )
        assert found, (tmp_path / "errors.txt").read_text()
        assert _steps(tmp_path)[-1] == int(found[1])
        status = json.loads((tmp_path / "tiny" / "status.json").read_text())
        assert (status["state"], status["step"]) == ("stopped", int(found[1]))
        assert found[0] in (tmp_path / "tiny" / "log.txt").read_text()
        return int(found[1])

    steps = [0]
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        assert train(tmp_path, "data.num_workers=1", kill=name) == 128 + signal.Signals[name]
        steps.append(stopped())
        assert steps[-1] > steps[-2]

    # A second signal ends the process while it writes the checkpoint.
    assert train(tmp_path, kill="SIGINT twice") == 130
    errors = (tmp_path / "errors.txt").read_text()
    assert "; the last checkpoint is that of step" in errors
    assert not list((tmp_path / "tiny" / "checkpoints").glob("*.partial"))
    assert steps[-1] in _steps(tmp_path)

    assert train(tmp_path) == 0, (tmp_path / "errors.txt").read_text()
    _assert_same(_result(tmp_path), _result(finished))
    assert json.loads((tmp_path / "tiny" / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves(tmp_path: Path, finished: Path, train: Train) -> None:
    saved = tmp_path / "tiny" / "checkpoints" / "step_0000003.pt"
    status = train(tmp_path, "data.num_workers=1", "trainer.max_steps=400", kill=f"terminal closed when {saved} exists")
    assert status == 128 + signal.SIGHUP
    assert "saved at step" in (tmp_path / "tiny" / "log.txt").read_text()
    assert _steps(tmp_path)[-1] >= 3


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_resumes_from_the_one_before(finished: Path, train: Train) -> None:
    expected = _result(finished)
    newest = CheckpointStore(finished / "tiny" / "checkpoints").paths()[-1]
    with open(newest, "r+b") as file:
        file.seek(newest.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    (finished / "tiny" / "model.safetensors").unlink()

    assert train(finished) == 0, (finished / "errors.txt").read_text()
    assert f"{newest} is corrupt" in _output(finished)
    assert "resumed at step 9" in _output(finished)
    _assert_same(_result(finished), expected)


@pytest.mark.slow
def test_a_finished_run_that_is_started_again_makes_no_step(finished: Path, train: Train) -> None:
    kept = [path for path in (finished / "tiny").rglob("*") if path.suffix in (".pt", ".jsonl", ".safetensors", ".wav")]
    before = {path: path.read_bytes() for path in kept}
    assert train(finished) == 0, (finished / "errors.txt").read_text()
    assert f"the run was finished at step {STEPS}" in _output(finished)
    assert "Trained for" not in _output(finished)  # the summary is not printed as if it were new
    assert "to train on, raise trainer.max_steps" in _output(finished)
    assert {path: path.read_bytes() for path in kept} == before


@pytest.mark.slow
def test_a_run_with_other_settings_is_refused(finished: Path, train: Train) -> None:
    config = (finished / "tiny" / "config.yaml").read_bytes()
    assert train(finished, "balancer.scale.decay=0.5") == 1, (finished / "errors.txt").read_text()
    line = only_line((finished / "errors.txt").read_text())
    assert line.startswith("error: ")
    assert "balancer.scale.decay was 0.999, is 0.5" in line
    assert (finished / "tiny" / "config.yaml").read_bytes() == config
