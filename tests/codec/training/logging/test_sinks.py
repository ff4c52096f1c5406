"""Metrics and audio sent to TensorBoard and wandb are read back, and the logger configurations build these sinks."""

from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from codec.training.logging import RunLogger, TensorBoardSink, WandbSink

LOGGER_CONFIGS = Path(__file__).parents[4] / "configs" / "logger"


def test_tensorboard_events_after_a_rewind_replace_the_earlier_ones(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [TensorBoardSink()])
    for step in (1, 2, 3):
        logger.metrics("train", step, 0.0, {"loss/l1": float(step)})
    logger.truncate_after(1)
    logger.metrics("train", 2, 0.0, {"loss/l1": 20.0})
    logger.audio("clip", 2, torch.rand(2, 100), 8000)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss/l1")] == [(1, 1.0), (2, 20.0)]
    assert events.Audio("audio/clip")[0].sample_rate == 8000


@pytest.mark.slow
def test_wandb_offline_keeps_one_id_and_writes_in_the_run_folder(tmp_path: Path) -> None:
    for step in (1, 2):
        logger = RunLogger(tmp_path / "run", [WandbSink("project", mode="offline")], config={"seed": 1})
        logger.truncate_after(step)
        logger.metrics("train", step, 0.0, {"loss/l1": 0.5, "bad": float("nan")})
        logger.audio("clip", step, torch.rand(2, 100), 8000)
        logger.close()
    identity = (tmp_path / "run" / "wandb_id.txt").read_text()
    sessions = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}*/*.wandb"))
    assert sessions
    content = b"".join(session.read_bytes() for session in sessions)
    assert content.count(b"train/loss/l1") >= 2
    assert len(list((tmp_path / "run" / "wandb").rglob("clip_*.wav"))) == 2


@pytest.mark.parametrize(("mode", "used"), [(None, "offline"), ("disabled", "disabled")])
def test_the_wandb_mode_of_the_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None, used: str
) -> None:
    import wandb  # takes half a second

    modes: list[object] = []

    def refuse(**arguments: object) -> None:
        modes.append(arguments["mode"])
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(RuntimeError, match=r"No API key configured\. Log in with \.venv/bin/wandb login"):
        WandbSink("project", mode=mode).open(tmp_path, {})  # type: ignore[arg-type]
    assert modes == [used]


def test_the_wandb_mode_is_checked_at_construction() -> None:
    with pytest.raises(ValueError, match="wandb mode must be one of online, offline, disabled, got 'off'"):
        WandbSink("project", mode="off")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "kinds"), [("jsonl", []), ("wandb", [WandbSink]), ("tensorboard", [TensorBoardSink])])
def test_configs_build_their_sinks(name: str, kinds: list[type]) -> None:
    node = yaml.safe_load((LOGGER_CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert [type(sink) for sink in instantiate(node, _convert_="all")["sinks"]] == kinds


def test_tensorboard_without_its_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At construction, before a run's folder is made."""
    monkeypatch.setattr("codec.training.logging.tensorboard_sink.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"run bash scripts/setup\.sh tensorboard$"):
        TensorBoardSink()
