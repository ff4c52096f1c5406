"""Validation scores of a run: a table of the first and the latest ones, and a line for the console."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codec.evaluation.metrics import METRICS, Metric, describe
from codec.evaluation.report.records import MINUS, UNKNOWN, Record, format_fixed, format_number, to_float

__all__ = ["MetricRow", "Score", "format_scores", "metric_rows", "score_keys", "score_table"]


class Score(NamedTuple):
    """One score at the first and at the latest validation, as text."""

    group: str
    metric: str
    first: str
    latest: str
    change: str


class MetricRow(NamedTuple):
    """One metric of the report: over all clips at the first and the latest validation, and now for each group."""

    metric: Metric
    first: str
    latest: str
    change: str
    verdict: str  # "better", "worse" or ""
    groups: Sequence[str]  # in the order of `metric_rows`


def metric_rows(
    validation: Sequence[Record], metrics: Mapping[str, Metric] = METRICS
) -> tuple[list[str], list[MetricRow]]:
    """The groups of clips, and a row for each metric that was measured over all clips. Losses have no row."""
    keys = [key for key in score_keys(validation) if not key.endswith("_loss")]
    groups = [group for group in dict.fromkeys(key.rpartition("/")[0] for key in keys) if group != "all"]
    rows = []
    for name in dict.fromkeys(key.rpartition("/")[2] for key in keys):
        metric = describe(name, metrics)
        first, latest = (to_float(record.get(f"all/{name}")) for record in (validation[0], validation[-1]))
        difference = latest - first
        change = format_fixed(difference, metric.digits, signed=True) if len(validation) > 1 else ""
        verdict = "" if not np.isfinite(difference) or not metric.sign * difference else "better"
        if metric.sign * difference < 0:
            verdict = "worse"
        now = [format_fixed(to_float(validation[-1].get(f"{group}/{name}")), metric.digits) for group in groups]
        before, after = (format_fixed(value, metric.digits) for value in (first, latest))
        rows.append(MetricRow(metric, before, after, change, verdict, now))
    return groups, rows


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
    """One line: the scores over all clips, and those of each group for the first metric.

    Without scores over all clips, the line holds everything except codebook usage.
    """
    names = [key.removeprefix("all/") for key in scores if key.startswith("all/") and not key.endswith("_loss")]
    if not names:
        return "  ".join(f"{key} {value:.4g}" for key, value in scores.items() if not key.startswith("codebook/"))
    groups = {key.removesuffix(f"/{names[0]}"): value for key, value in scores.items() if key.endswith(f"/{names[0]}")}
    of_groups = ", ".join(f"{group} {value:.3g}" for group, value in groups.items() if group != "all")
    parts = []
    for name in names:
        metric = describe(name, metrics)
        parts.append(f"{metric.label} {scores[f'all/{name}']:.4g}{f' {metric.unit}' if metric.unit else ''}")
    if of_groups:
        parts[0] += f" ({of_groups})"
    return "  ".join(parts)


def score_keys(validation: Sequence[Record]) -> list[str]:
    """Keys `<group>/<metric>` of all scores."""
    keys = (key for record in validation for key in record)
    return list(dict.fromkeys(key for key in keys if "/" in key and not key.startswith("codebook/")))
