"""Fixtures of several modules of this folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from codec.training import Trainer
from config_options import Build, configuration
from scripts.composition import build_trainer
from scripts.run_folder import check_keys
from scripts.values import check_values

ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int  # negative for a signal
    stdout: str
    stderr: str


Forked = Callable[..., Ended]


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Runs `train` or `ablate` in a fork of one process; see `forked_runs` for the arguments."""
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "support" / "forked_runs.py")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    requests, answers = server.stdin, server.stdout

    def request(
        output: Path, command: str, *arguments: str, kill: str | None = None, report: bool = False, **environment: str
    ) -> Ended:
        asked = {"output": str(output), "command": command, "arguments": arguments, "kill": kill, "report": report}
        requests.write(json.dumps(asked | {"environment": environment}) + "\n")
        requests.flush()
        status = int(answers.readline())
        return Ended(status, *((output / name).read_text() for name in ("output.txt", "errors.txt")))

    yield request
    requests.close()
    answers.close()
    assert server.wait() == 0


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Build]:
    """Builds trainers from overrides, and closes their loggers at the end."""
    trainers: list[Trainer] = []

    def make(*overrides: str) -> Trainer:
        cfg = configuration(*overrides)
        check_keys(cfg)
        check_values(cfg)
        trainers.append(build_trainer(cfg, tmp_path / str(len(trainers))))
        return trainers[-1]

    yield make
    for trainer in trainers:
        trainer.logger.close()


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing a report takes longer than a tiny run."""
    monkeypatch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)
