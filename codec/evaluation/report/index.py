"""index.html in the folder of all runs: their scores, states and dates, with links to their reports."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from codec.evaluation.metrics import METRICS, Metric
from codec.evaluation.report.records import format_fixed, read_last_record, to_float
from codec.evaluation.report.scores import score_keys
from codec.evaluation.report.status import RunStatus, read_status
from codec.evaluation.report.templates import environment

__all__ = ["write_index"]


class _Run(NamedTuple):
    name: str
    link: str  # empty if the run has no report
    status: RunStatus
    scores: Sequence[tuple[str, float]]  # text and value, one for each column


class _Column(NamedTuple):
    group: str
    metric: Metric


class _Ablation(NamedTuple):
    name: str
    link: str
    finished: int  # runs with a result
    changed_at: float  # Unix time


def write_index(runs_folder: Path, metrics: Mapping[str, Metric] = METRICS) -> Path:
    """Writes `index.html`: a row for each run, the most recent first, then the ablations below `ablations/`.

    Several runs may call it at the same time: each writes its own temporary file and renames it.

    Args:
        runs_folder: Holds a folder for each run; other entries are passed over.
        metrics: Registry of the scores that are shown, in the order of the columns. Each group of clips has its own.

    Returns:
        Path of the page.
    """
    folders = sorted(path for path in runs_folder.iterdir() if _is_run(path))
    scores = [_latest_scores(path) for path in folders]
    groups = sorted({key.rpartition("/")[0] for each in scores for key in each})
    columns = [
        _Column(group, metric)
        for metric in metrics.values()
        for group in groups
        if any(f"{group}/{metric.name}" in each for each in scores)
    ]
    runs = [
        _Run(path.name, _link(path / "report.html"), read_status(path), [_score(each, c) for c in columns])
        for path, each in zip(folders, scores, strict=True)
    ]
    runs.sort(key=lambda run: run.status.alive_at or 0.0, reverse=True)
    text = (
        environment()
        .get_template("index.html.j2")
        .render(runs=runs, columns=columns, ablations=_ablations(runs_folder / "ablations"))
    )
    path = runs_folder / "index.html"
    temporary = path.with_name(f"index.html.{secrets.token_hex(8)}.partial")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("metrics.jsonl", "config.yaml", "status.json"))


def _latest_scores(folder: Path) -> Mapping[str, float]:
    record = read_last_record(folder / "metrics.jsonl", "validation") or {}
    return {key: to_float(record[key]) for key in score_keys([record]) if not key.endswith("_loss")}


def _score(scores: Mapping[str, float], column: _Column) -> tuple[str, float]:
    value = scores.get(f"{column.group}/{column.metric.name}", np.nan)
    return format_fixed(value, column.metric.digits), value


def _ablations(folder: Path) -> list[_Ablation]:
    found = [
        _Ablation(
            page.parent.name,
            _link(page, above=2),
            sum(1 for _ in page.parent.glob("runs/*/result.json")),
            page.stat().st_mtime,
        )
        for page in folder.glob("*/ablation.html")
    ]
    return sorted(found, key=lambda ablation: ablation.changed_at, reverse=True)


def _link(page: Path, above: int = 1) -> str:
    """The address of a page relative to the folder that is `above` folders above its own; empty if it is missing."""
    if not page.is_file():
        return ""
    return "/".join(quote(os.fsencode(part)) for part in page.parts[-1 - above :])
