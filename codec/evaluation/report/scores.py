"""Validation scores of a run: a table of the first and the latest ones, and a line for the console."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codec.evaluation.metrics import METRICS, Metric, describe
from codec.evaluation.report.records import MINUS, UNKNOWN, Record, format_fixed, format_number, to_float

__all__ = ["GroupScore", "MetricRow", "Score", "format_scores", "metric_rows", "score_keys", "score_table"]


class Score(NamedTuple):
    """One score at the first and at the latest validation, as text."""

    group: str
    metric: str
    first: str
    latest: str
    change: str


class GroupScore(NamedTuple):
    """One metric in one group of clips, at the first and at the latest validation, as text."""

    first: str
    latest: str
    change: str
    verdict: str  # "better", "worse" or ""


class MetricRow(NamedTuple):
    """One metric of the report."""

    metric: Metric
    groups: Sequence[GroupScore]  # in the order of `metric_rows`


def metric_rows(
    validation: Sequence[Record], metrics: Mapping[str, Metric] = METRICS
) -> tuple[list[str], list[MetricRow]]:
    """The groups of clips, and a row for each metric. Losses have no row."""
    keys = [key for key in score_keys(validation) if not key.endswith("_loss")]
    groups = list(dict.fromkeys(key.rpartition("/")[0] for key in keys))
    rows = []
    for name in dict.fromkeys(key.rpartition("/")[2] for key in keys):
        metric = describe(name, metrics)
        rows.append(MetricRow(metric, [_group_score(validation, f"{group}/{name}", metric) for group in groups]))
    return groups, rows


def _group_score(validation: Sequence[Record], key: str, metric: Metric) -> GroupScore:
    first, latest = (to_float(record.get(key)) for record in (validation[0], validation[-1]))
    difference = latest - first
    change = format_fixed(difference, metric.digits, signed=True) if len(validation) > 1 else ""
    verdict = "" if not np.isfinite(difference) or not metric.sign * difference else "better"
    if metric.sign * difference < 0:
        verdict = "worse"
    before, after = (format_fixed(value, metric.digits) for value in (first, latest))
    return GroupScore(before, after, change, verdict)


def score_table(validation: Sequence[Record], metrics: Mapping[str, Metric] = METRICS) -> list[Score]:
    """A row for each score of the validation records, in order of appearance."""
    rows = []
    for key in score_keys(validation):
        group, _, name = key.rpartition("/")
        metric = describe(name, metrics)
        values = [to_float(record.get(key)) for record in validation]
        first, latest = values[0], values[-1]
        change = UNKNOWN
        if len(values) > 1 and np.isfinite([first, latest]).all():
            if metric.unit:
                change = f"{latest - first:+.1f} {metric.unit}"
            elif first:
                change = f"{latest / first - 1:+.0%}"
        change = change.replace("-", MINUS)
        rows.append(Score(group, metric.heading, format_number(first), format_number(latest), change))
    return rows


def format_scores(scores: Mapping[str, float], metrics: Mapping[str, Metric] = METRICS) -> str:
    """One line: the scores of each group of clips. Without groups, it holds everything except codebook usage."""
    keys = [key for key in score_keys([scores]) if not key.endswith("_loss")]
    if not keys:
        return "  ".join(f"{key} {value:.4g}" for key, value in scores.items() if not key.startswith("codebook/"))
    groups: dict[str, list[str]] = {}
    for key in keys:
        group, _, name = key.rpartition("/")
        metric = describe(name, metrics)
        unit = f" {metric.unit}" if metric.unit else ""
        groups.setdefault(group, []).append(f"{metric.label} {scores[key]:.4g}{unit}")
    return "  ".join(f"{group}: {', '.join(parts)}" for group, parts in groups.items())


def score_keys(validation: Sequence[Record]) -> list[str]:
    """Keys `<group>/<metric>` of all scores."""
    keys = (key for record in validation for key in record)
    return list(dict.fromkeys(key for key in keys if "/" in key and not key.startswith("codebook/")))
