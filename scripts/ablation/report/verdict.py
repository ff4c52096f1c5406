"""What an ablation shows, in a few sentences, and its picture: two scores of every strategy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from codec.evaluation import Metric
from scripts.ablation.report.runs import Condition
from scripts.ablation.report.statistics import mean_interval
from scripts.ablation.report.tables import Table

__all__ = ["Scatter", "quality_scatter", "verdict"]

_NAMED = 4  # strategies that a sentence names with their scores
_ACCENT, _BASELINE = "#4a86c5", "#8a8a8a"
_PREFERRED = ("mel_distance", "distillmos", "visqol")  # the first two that were measured: horizontal and vertical axis


class Scatter(NamedTuple):
    """Mean and 95 % interval of two metrics for every strategy."""

    x: Metric
    y: Metric
    points: Sequence[Mapping[str, Any]]

    @property
    def data(self) -> dict[str, Any]:
        """For charts.js."""
        x, y = (f"{m.heading} ({'higher' if m.sign > 0 else 'lower'} is better)" for m in (self.x, self.y))
        return {"kind": "scatter", "xLabel": x, "yLabel": y, "points": self.points}


def verdict(differences: Mapping[str, tuple[Sequence[Metric], Table]], baseline: str, seeds: int) -> list[str]:
    """Sentences on which strategies differ from the baseline beyond chance; none without a comparison.

    Args:
        differences: Group of clips -> columns and table of `difference_table`.
        seeds: Largest number of seeds of a strategy.
    """
    marks: dict[str, tuple[list[str], list[str]]] = {}
    for group, (metrics, table) in differences.items():
        labels = [f"{metric.label} of {group}" if len(differences) > 1 else metric.label for metric in metrics]
        for row in table.bodies[0]:
            if len(row.entries) == len(metrics):  # not failed
                for mark, found in zip(("better", "worse"), marks.setdefault(row.name, ([], [])), strict=True):
                    found += [label for label, entry in zip(labels, row.entries, strict=True) if entry.mark == mark]
    better = {name: good for name, (good, bad) in marks.items() if good and not bad}
    mixed = {name: both for name, both in marks.items() if all(both)}
    worse = [name for name, (good, bad) in marks.items() if bad and not good]
    same = [name for name, both in marks.items() if not any(both)]
    sentences = []
    if better:
        sentences.append(f"Better than {baseline}, and shown to be worse in no score: {_with_scores(better)}.")
    elif marks:
        sentences.append(f"No strategy is better than {baseline} in any score without being worse in another.")
    for name, (good, bad) in list(mixed.items())[:_NAMED]:
        sentences.append(f"{name} is better in {_joined(good)}, worse in {_joined(bad)}.")
    if (more := len(mixed) - _NAMED) > 0:
        sentences.append(f"{more} more {'is' if more == 1 else 'are'} better in some scores and worse in others.")
    if worse:
        sentences.append(f"Worse in at least one score, better in none: {_joined(worse)}.")
    if same:
        sentences.append(f"No difference was shown for {_joined(same)}.")
    if marks and seeds < 2:
        sentences.append("This is one seed: it compares the clips of one training run, and another may differ.")
    return sentences


def quality_scatter(conditions: Sequence[Condition], baseline: str, metrics: Sequence[Metric]) -> Scatter | None:
    """The first two of `_PREFERRED`, or else of all metrics, that have a direction.

    Returns:
        None without two points.
    """
    directed = [metric for metric in metrics if metric.sign]
    preferred = [metric for name in _PREFERRED for metric in directed if metric.name.rpartition("/")[2] == name]
    others = [metric for metric in directed if metric not in preferred]
    if len(directed) < 2:
        return None
    x, y = [*preferred, *others][:2]
    points = []
    for condition in conditions:
        if condition.loss_ablation is not None:
            continue
        values = [condition.values(metric.name) for metric in (x, y)]
        (at_x, half_x, _), (at_y, half_y, _) = (mean_interval(each) for each in values)
        if np.isfinite([at_x, at_y]).all():
            color = _BASELINE if condition.is_strategy(baseline) else _ACCENT
            halves = {"dx": float(np.nan_to_num(half_x)), "dy": float(np.nan_to_num(half_y))}
            points.append({"name": condition.strategy, "x": at_x, "y": at_y, "color": color, **halves})
    return Scatter(x, y, points) if len(points) > 1 else None


def _with_scores(strategies: Mapping[str, Sequence[str]]) -> str:
    ranked = sorted(strategies, key=lambda name: -len(strategies[name]))
    named = [f"{name} ({', '.join(strategies[name])})" for name in ranked[:_NAMED]]
    return _joined([*named, f"{len(ranked) - _NAMED} more"] if len(ranked) > _NAMED else named)


def _joined(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
