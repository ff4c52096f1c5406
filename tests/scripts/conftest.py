"""Fixtures of several modules of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from codec.training import Trainer
from config_options import Build, configuration
from scripts.composition import build_trainer
from scripts.run_folder import check_keys
from scripts.values import check_values


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
