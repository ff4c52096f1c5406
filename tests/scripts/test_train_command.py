"""The training command: exit status, what it prints, and how it ends when interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig

from bad_input import ROOT, TINY, assert_trained, from_folder
from forks import Forks
from printed import only_line
from scripts.train import main


def command(*overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.train", *TINY, *overrides],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_error_of_hydra_is_one_line_and_exits_with_1(tmp_path: Path) -> None:
    """The command is a process of its own."""
    done = command(f"runs_folder={tmp_path / 'runs'}", "trainer.sed=1")
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert line.startswith("error: there is no setting trainer.sed, did you mean trainer.seed?")
    assert not (tmp_path / "runs").exists()


def test_an_error_of_the_run_is_one_line_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    overrides = (f"runs_folder={tmp_path / 'runs'}", *from_folder(tmp_path / "empty"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["train", *TINY, *overrides])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    line = only_line(capfd.readouterr().err)
    assert line.startswith(f"error: {tmp_path}/empty: the folder is empty (in data.corpus)")
    assert not (tmp_path / "runs").exists()


def test_hydra_full_error_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["train", "trainer.sed=1"])
    with pytest.raises(HydraException, match="Could not override"):
        main()


def test_ctrl_c_says_how_to_resume(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("STARTED_AS", "bash scripts/train.sh")
    monkeypatch.setattr(sys, "argv", ["train", "name=two words"])
    monkeypatch.setattr("scripts.train.run", interrupted)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    line = only_line(capsys.readouterr().err)
    assert line.endswith(": bash scripts/train.sh 'name=two words'")

    monkeypatch.delenv("STARTED_AS")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "scripts.train", "name=two words"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.endswith(": python -m scripts.train 'name=two words'\n")
    assert os.environ["HYDRA_FULL_ERROR"] == "0"


@pytest.mark.slow
def test_without_apt_the_command_trains_on_the_bundled_clips(tmp_path: Path, forks: Forks) -> None:
    settings = (*TINY, "data=starter", f"data.root={tmp_path / 'starter'}", f"runs_folder={tmp_path / 'runs'}")
    done = forks.run(tmp_path, "train", *settings, report=True, PATH=str(tmp_path))
    assert done.status == 0, done.stderr
    assert "data=starter is not available (there is no apt-get on this machine)" in done.stderr
    for place in ("model.safetensors", "checkpoints", "samples", "report.html"):
        assert str(tmp_path / "runs" / "bad" / place) in done.stdout
    assert_trained(tmp_path / "runs" / "bad")


def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path) -> None:
    """The first import of a command sends the signal to itself."""
    (tmp_path / "hydra.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)")
    done = command(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("seeds", "line"),
    [("3,-1", "error: seed must be at least 0, got -1"), ("3,3", "error: 2 runs would share the folder ")],
)
def test_all_runs_of_a_sweep_are_checked_before_the_first_starts(
    seeds: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[object] = []
    monkeypatch.setattr("scripts.train.run", lambda *arguments: runs.append(arguments))
    overrides = ("data=clips", f"runs_folder={tmp_path / 'runs'}", f"seed={seeds}", "-m")
    monkeypatch.setattr(sys, "argv", ["train", *TINY, *overrides])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert only_line(capsys.readouterr().err).startswith(line)
    assert runs == []
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_in_the_last_step_of_a_run_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is finished, and its signal must not get lost. The sweep leaves no file and no variable of Hydra."""
    runs: list[object] = []

    def finish(cfg: DictConfig, resume_command: str | None, experiment: str | None) -> int:
        runs.append(cfg.seed)
        return signal.SIGINT

    monkeypatch.setenv("STARTED_AS", "bash scripts/train.sh")
    monkeypatch.setattr(
        sys, "argv", ["train", *TINY, "data=clips", f"runs_folder={tmp_path / 'runs'}", "seed=3,4", "-m"]
    )
    monkeypatch.setattr("scripts.train.run", finish)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 128 + signal.SIGINT
    assert runs == [3]
    assert capsys.readouterr().err.startswith("stopped after run 1 of 2; continue with: bash scripts/train.sh ")
    assert not (tmp_path / "runs").exists()
    assert "HYDRA_FULL_ERROR" not in os.environ  # else the commands that later tests start print tracebacks
