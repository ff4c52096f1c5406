"""The curves of an ablation: groups of small charts with common axes, averaged over seeds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from codec.evaluation import describe
from codec.evaluation.report.charts import Chart, Series, area_chart, colors, line_chart
from codec.evaluation.report.records import read_metrics
from codec.evaluation.report.scores import score_keys
from scripts.ablation.report.runs import Condition, number

__all__ = ["ChartGroup", "chart_groups"]

Record = Mapping[str, Any]

_STRATEGIES_PER_CHART = 7  # beside the baseline: one per color
_BASELINE_COLOR = "#8a8a8a"


class ChartGroup(NamedTuple):
    """Charts under one heading; charts with the same title have the same axes."""

    title: str
    charts: Sequence[Chart]
    legend: Sequence[tuple[str, str]] = ()  # common to all charts; then these also share their axes


class _Curves(NamedTuple):
    """The logged records of one condition, a list per seed."""

    label: str
    is_baseline: bool
    train: Sequence[Sequence[Record]]
    validation: Sequence[Sequence[Record]]


def chart_groups(conditions: Sequence[Condition], baseline: str) -> tuple[list[ChartGroup], list[str]]:
    """Charts of losses, validation scores, gradient shares and cosines over the steps, for one weight setting.

    Returns:
        The groups that have a chart, and a note for each incomplete metrics.jsonl.
    """
    all_curves, notes = [], []
    for condition in conditions:
        train, validation = [], []
        for run in condition.finished:
            records, unreadable = read_metrics(run.folder / "metrics.jsonl")
            notes += [f"{run.folder.name}: {note}" for note in unreadable]
            train.append([record for record in records if record["split"] == "train"])
            validation.append([record for record in records if record["split"] == "validation"])
        all_curves.append(_Curves(condition.strategy, condition.is_strategy(baseline), train, validation))
    train_records = [record for curves in all_curves for records in curves.train for record in records]
    losses, shares, cosines = (_keys_with(train_records, prefix) for prefix in ("loss/", "share/", "cosine/"))
    pairs = {key: name.replace("/", " and ") for key, name in cosines.items()}
    groups = [
        ChartGroup("Training losses", _charts_per_metric(all_curves, "train", losses, smooth=True)),
        ChartGroup("Held-out scores", _charts_per_metric(all_curves, "validation", _score_titles(all_curves))),
        _charts_per_strategy("Share of the balanced gradient", all_curves, shares, stacked=True),
        _charts_per_strategy("Cosine between gradients", all_curves, pairs, stacked=False),
    ]
    return [group for group in groups if group.charts], notes


def _score_titles(all_curves: Sequence[_Curves]) -> dict[str, str]:
    """Title of each score of the validations, GROUP/METRIC."""
    records = [record for curves in all_curves for seed in curves.validation for record in seed]
    titles = {}
    for key in score_keys(records):
        group, _, name = key.rpartition("/")
        if not name.endswith("_loss"):
            titles[key] = f"{describe(name).heading}, {group}"
    return titles


def _charts_per_metric(
    all_curves: Sequence[_Curves], split: str, titles: Mapping[str, str], smooth: bool = False
) -> list[Chart]:
    """For each metric, charts with a few strategies each; the baseline is in all of them, in gray."""
    charts = []
    for key, title in titles.items():
        lines = []
        for curves in all_curves:
            steps, (values,) = _mean_over_seeds(getattr(curves, split), [key])
            if np.isfinite(values).any():
                lines.append((curves.is_baseline, Series(curves.label, steps, values, _BASELINE_COLOR)))
        if not lines:
            continue
        log, limits = _value_axis(np.concatenate([line.values for _, line in lines]))
        extent = _step_range(line for _, line in lines)
        baseline = [line for is_baseline, line in lines if is_baseline]
        others = [line for is_baseline, line in lines if not is_baseline]
        for start in range(0, max(1, len(others)), _STRATEGIES_PER_CHART):
            few = others[start : start + _STRATEGIES_PER_CHART]
            drawn = baseline + [line._replace(color=c) for line, c in zip(few, colors(len(few)), strict=True)]
            chart = line_chart(title, drawn, log=log, smooth=smooth, limits=limits, steps=extent)
            charts += [] if chart is None else [chart]
    return charts


def _value_axis(values: np.ndarray) -> tuple[bool, tuple[float, float]]:
    """Whether the common axis is logarithmic (the rule of `line_chart`), and its limits."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 0 and high > 30 * low:
        margin = (high / low) ** 0.04
        return True, (low / margin, high * margin)
    margin = 0.04 * (high - low) or abs(high) or 1.0
    return False, (low - margin, high + margin)


def _charts_per_strategy(
    title: str, all_curves: Sequence[_Curves], names: Mapping[str, str], stacked: bool
) -> ChartGroup:
    """A chart per strategy, with a line or an area for each key of `names`."""
    drawn = []
    for curves in all_curves:
        steps, values = _mean_over_seeds(curves.train, list(names))
        if np.isfinite(values).any():
            rows = zip(names.values(), values, colors(len(names)), strict=True)
            drawn.append((curves.label, [Series(name, steps, row, color) for name, row, color in rows]))
    if not drawn:
        return ChartGroup(title, [])
    extent = _step_range(line for _, series in drawn for line in series)
    charts = []
    for label, series in drawn:
        if stacked:
            chart = area_chart(label, series, steps=extent)
        else:
            chart = line_chart(label, series, log=False, smooth=True, limits=(-1.05, 1.05), steps=extent)
        charts += [] if chart is None else [chart._replace(legend=())]
    return ChartGroup(title, charts, list(zip(names.values(), colors(len(names)), strict=True)))


def _step_range(lines: Iterable[Series]) -> tuple[float, float] | None:
    """First and last step of all lines; None if there is only one step."""
    steps = np.concatenate([line.steps for line in lines])
    return (float(steps.min()), float(steps.max())) if steps.min() < steps.max() else None


def _mean_over_seeds(seeds: Sequence[Sequence[Record]], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Means at every step that has one of the keys.

    Shape: -> steps [N], values [len(keys), N]; NaN where no seed has a finite value.
    """
    rows_at: dict[int, list[list[float]]] = defaultdict(list)
    for records in seeds:
        for record in records:
            if any(key in record for key in keys):
                rows_at[record["step"]].append([number(record.get(key)) for key in keys])
    steps = sorted(rows_at)
    values = np.full((len(keys), len(steps)), np.nan)
    for column, step in enumerate(steps):
        rows = np.array(rows_at[step])
        finite = np.isfinite(rows)
        sums = np.where(finite, rows, 0).sum(0)
        values[:, column] = np.divide(sums, finite.sum(0), out=values[:, column], where=finite.any(0))
    return np.array(steps, dtype=np.float64), values


def _keys_with(records: Sequence[Record], prefix: str) -> dict[str, str]:
    """Key -> its name without the prefix."""
    keys = dict.fromkeys(key for record in records for key in record if key.startswith(prefix))
    return {key: key.removeprefix(prefix) for key in keys}
