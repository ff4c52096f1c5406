"""The state of a run: whether it trains, when it was last alive, how far it is, and on what."""

import json
import math
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from codec.evaluation.report.records import read_last_record, to_float

__all__ = ["STATES", "RunStatus", "read_config", "read_status"]

STATES = ("running", "finished", "stopped", "failed", "unknown")

_SUMMARY = "summary.txt"  # written last by scripts/train.sh, so it marks a finished run


class RunStatus(NamedTuple):
    """What is known of a run; None and empty text where something is not recorded."""

    state: str  # one of STATES
    phase: str  # what a running one does, such as "training" or "validation"
    alive_at: float | None  # Unix time
    step: int | None
    total_steps: int | None
    fraction: float | None  # of the run that is done, in [0, 1]
    seconds: float | None  # training time
    seconds_left: float | None
    bandwidth_kbps: float | None  # of the validation
    experiment: str
    device: str
    corpus: str
    parameters: int | None
    command: str  # resumes the run
    commit: str
    message: str  # reason of a failure, or how to resume

    @property
    def progress(self) -> str:
        """Step and total, such as `240 of 1,000 steps`; without a limit of the steps `240 steps, 31 %`."""
        if self.step is None:
            return ""
        if self.total_steps:
            return f"{self.step:,} of {self.total_steps:,} steps"
        return f"{self.step:,} steps" + ("" if self.fraction is None else f", {100 * self.fraction:.0f} %")

    @property
    def alive(self) -> str:
        """Local time of the last sign of life, to the minute."""
        return "" if self.alive_at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(self.alive_at))


def read_status(folder: Path, running: bool | None = None) -> RunStatus:
    """Reads status.json. What it lacks is taken from config.yaml, metrics.jsonl, summary.txt and the files' dates.

    Args:
        running: Whether the run continues, if the caller knows; status.json says how a run ended.
    """
    status = _read_json(folder / "status.json")
    config = read_config(folder)
    trainer, validation = (_mapping(config.get(key)) for key in ("trainer", "validation"))
    logged = None in (_number(status.get("step")), _number(status.get("seconds")))
    record = (read_last_record(folder / "metrics.jsonl") or {}) if logged else {}
    step, seconds = (_number(status.get(key), record.get(key)) for key in ("step", "seconds"))
    total = _number(status.get("total_steps"), trainer.get("max_steps"))
    minutes, fraction = _number(trainer.get("max_minutes")), _number(status.get("progress"))
    if fraction is None and total and step is not None:
        fraction = step / total
    elif fraction is None and minutes and seconds is not None:
        fraction = seconds / 60 / minutes
    parameters = _number(status.get("parameters"))
    return RunStatus(
        state=_state(folder, status.get("state"), running),
        phase=_text(status.get("phase")),
        alive_at=_number(status.get("updated"), _modified(folder / "metrics.jsonl")),
        step=None if step is None else int(step),
        total_steps=None if not total else int(total),
        fraction=None if fraction is None else min(1.0, max(0.0, fraction)),
        seconds=seconds,
        seconds_left=_number(status.get("seconds_left")),
        bandwidth_kbps=_number(status.get("bandwidth_kbps"), validation.get("bandwidth_kbps")),
        experiment=_text(status.get("experiment")),
        device=_text(status.get("device")),
        corpus=_text(status.get("corpus")),
        parameters=None if parameters is None else int(parameters),
        command=_text(status.get("command")),
        commit=_text(status.get("commit")),
        message=_text(status.get("message")),
    )


def read_config(folder: Path) -> Mapping[str, Any]:
    """The settings in config.yaml; empty if the file is missing or is not a mapping."""
    path = folder / "config.yaml"
    try:
        return _parse(path, path.stat().st_mtime_ns)
    except OSError:
        return {}


@cache  # the index reads the settings of all runs at every update
def _parse(path: Path, _modified_ns: int) -> Mapping[str, Any]:
    try:
        config = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


def _state(folder: Path, state: Any, running: bool | None) -> str:
    if state in STATES and not (state == "running" and running is False):  # it ended without saying how
        return str(state)
    if running:
        return "running"
    return "finished" if (folder / _SUMMARY).exists() else "stopped" if running is False else "unknown"


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(*values: Any) -> float | None:
    """The first of the values that is a finite number."""
    numbers = (to_float(value) for value in values if not isinstance(value, bool))
    return next((number for number in numbers if math.isfinite(number)), None)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
