"""The tables of an ablation's page: scores, differences to the reference, cost, and which outputs are alike."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codec.evaluation import METRICS, Metric, describe
from scripts.ablation.report.runs import Cell, Condition, ordered
from scripts.ablation.report.statistics import (
    LEVEL,
    Difference,
    Interval,
    detectable_ratio,
    holm,
    mean_interval,
    paired_difference,
    smallest_wilcoxon_p,
)

__all__ = [
    "Entry",
    "Row",
    "Table",
    "balancing_table",
    "clip_metrics",
    "cost_table",
    "difference_table",
    "score_table",
]

_MINUS, _UNKNOWN = "\N{MINUS SIGN}", "\N{EN DASH}"
_BALANCED, _UNBALANCED = "encodec", "weighted_sum"


class Entry(NamedTuple):
    """A cell of a table."""

    text: str
    sort: float = np.nan  # NaN goes last in either direction
    detail: str = ""
    mark: str = ""  # "best", "better" or "worse"
    span: int = 1


class Row(NamedTuple):
    name: str
    note: str
    entries: Sequence[Entry]


class Table(NamedTuple):
    """Rows are sorted within their body."""

    caption: str
    head: Sequence[str]  # the heading of the names first
    bodies: Sequence[Sequence[Row]]
    spans: Sequence[tuple[str, int]] = ()  # headings above those of the columns, with how many they span


def clip_metrics(conditions: Sequence[Condition]) -> list[str]:
    """The scores that single clips have, in the order of `METRICS`."""
    cells = [cell for condition in conditions for cell in condition.finished]
    return ordered((name for cell in cells for clip in cell.clips.values() for name in clip.scores), METRICS)


def score_table(
    caption: str, conditions: Sequence[Condition], metrics: Sequence[str], score: Callable[[Cell, str], float]
) -> Table:
    """A row per condition. The best mean of each column is marked; loss ablations do not compete."""
    intervals = {
        (row, metric): mean_interval(np.array([score(cell, metric) for cell in condition.finished]))
        for row, condition in enumerate(conditions)
        for metric in metrics
    }
    rivals = [row for row, condition in enumerate(conditions) if condition.loss_ablation is None]
    best = {metric: _best([intervals[row, metric].mean for row in rivals], metric) for metric in metrics}
    rows = []
    for row, condition in enumerate(conditions):
        entries = []
        for metric in metrics:
            interval = intervals[row, metric]
            is_best = condition.loss_ablation is None and interval.mean == best[metric]
            text = _interval(interval, describe(metric).digits)
            entries.append(Entry(text, interval.mean, mark="best" if is_best else ""))
        rows.append(_row(condition, entries))
    return Table(caption, ["strategy", *(_heading(m) for m in metrics)], _bodies(conditions, rows))


def difference_table(
    caption: str, conditions: Sequence[Condition], reference: Condition, metrics: Sequence[str]
) -> tuple[Table, list[str]]:
    """Paired differences to `baseline`, Holm-corrected over the rows that are tested alike, per metric.

    Returns:
        The table, and sentences on what such numbers of seeds and clips can show.
    """
    compared = [condition for condition in conditions if condition is not reference]
    columns = {}
    for metric in metrics:
        against = reference.clip_scores(metric)
        columns[metric] = [paired_difference(condition.clip_scores(metric), against) for condition in compared]
    corrected = {metric: _corrected(differences) for metric, differences in columns.items()}
    tests = {(d.test, d.n) for differences in columns.values() for d in differences if d is not None}
    rows = []
    for row, condition in enumerate(compared):
        entries = [_difference(columns[m][row], corrected[m][row], describe(m), len(tests) > 1) for m in metrics]
        rows.append(_row(condition, entries))
    table = Table(caption, ["strategy", *(_heading(m) for m in metrics)], _bodies(compared, rows))
    return table, _what_can_be_shown(list(columns.values()))


def _corrected(differences: Sequence[Difference | None]) -> np.ndarray:
    """t-tests and Wilcoxon tests are families of their own: they speak of different things."""
    result = np.full(len(differences), np.nan)
    for test in ("t", "Wilcoxon"):
        family = [i for i, difference in enumerate(differences) if difference is not None and difference.test == test]
        result[family] = holm(np.array([d.p for d in differences if d is not None and d.test == test]))
    return result


def _difference(difference: Difference | None, p: float, metric: Metric, name_test: bool) -> Entry:
    if difference is None:
        return Entry(_UNKNOWN)
    detail = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if np.isfinite(p) else "no spread to test by"
    if name_test:
        detail = f"{difference.test}, {difference.n} {'seeds' if difference.test == 't' else 'clips'}, {detail}"
    mean, mark = difference.interval.mean, ""
    if p < LEVEL and metric.sign:
        mark = "better" if mean * metric.sign > 0 else "worse"
        detail = f"{detail}: {mark}"
    return Entry(_interval(difference.interval, metric.digits, signed=True), mean, detail, mark)


def _what_can_be_shown(columns: Sequence[Sequence[Difference | None]]) -> list[str]:
    """One sentence per kind of test and number of seeds or clips, for the largest family of its kind."""
    sizes: Counter[str] = Counter()
    counts = set()
    for column in columns:
        known = [difference for difference in column if difference is not None]
        counts |= {(difference.test, difference.n) for difference in known}
        sizes |= Counter(difference.test for difference in known)
    sentences = []
    for test, count in sorted(counts, key=lambda entry: (entry[0] != "t", entry[1])):
        comparisons = f"{sizes[test]} comparison{'s' if sizes[test] > 1 else ''}"
        if test == "t":
            few = ": too few to show any but large differences" if count <= 3 else ""
            sentences.append(
                f"Paired t-test, {count} seeds, {comparisons}: the first to pass at 5 % needs a mean of "
                f"{detectable_ratio(count, sizes[test]):.1f} times its standard deviation over seeds{few}."
            )
        else:
            least = min(1.0, smallest_wilcoxon_p(count) * sizes[test])
            none = ", so nothing can pass at 5 %" if least >= LEVEL else ""
            sentences.append(
                f"One seed: Wilcoxon's signed ranks over {count} clip{'s' if count > 1 else ''}, {comparisons}. The "
                f"smallest p there can be is {least:.2g}{none}. It speaks of these clips under one training run, not "
                "of what another seed would give."
            )
    return sentences


def balancing_table(settings: Mapping[str, Sequence[Condition]]) -> Table | None:
    """EnCodec's table A.4: weights down, with and without balancing across; None unless two settings have both."""
    pairs = {}
    for weights, conditions in settings.items():
        named = {condition.strategy: condition for condition in conditions if condition.loss_ablation is None}
        if _BALANCED in named and _UNBALANCED in named:
            pairs[weights] = (named[_BALANCED], named[_UNBALANCED])
    if len(pairs) < 2:
        return None
    # A.4 reports SI-SDR and ViSQOL; where one was not measured, the next distance stands in.
    metrics = clip_metrics([condition for pair in pairs.values() for condition in pair])[:2]
    rows = []
    for weights, pair in pairs.items():
        entries = []
        for metric in metrics:
            scores = [np.array([cell.scores.get(metric, np.nan) for cell in c.finished]) for c in pair]
            intervals = [mean_interval(values) for values in scores]
            best = _best([interval.mean for interval in intervals], metric)
            for interval, condition in zip(intervals, pair, strict=True):
                text = _interval(interval, describe(metric).digits) if condition.finished else "failed"
                entries.append(Entry(text, interval.mean, mark="best" if interval.mean == best else ""))
        rows.append(Row(weights, "", entries))
    head = ["weights", *(f"with balancing ({_BALANCED})", f"without ({_UNBALANCED})") * len(metrics)]
    spans = [("", 1), *((_heading(metric), 2) for metric in metrics)]
    caption = "Loss weights against balancing, in the shape of EnCodec's table A.4; mean ± 95 % interval over seeds"
    return Table(caption, head, [rows], spans)


def cost_table(settings: Mapping[str, Sequence[Condition]], reference: str) -> Table:
    """A row per strategy, medians over all its finished cells: the loss weights cost nothing."""
    merged: dict[tuple[str, str | None], list[Cell]] = {}
    for conditions in settings.values():
        for condition in conditions:
            merged.setdefault((condition.strategy, condition.loss_ablation), []).extend(condition.cells)
    pooled = [Condition(strategy, "default", end, cells) for (strategy, end), cells in merged.items()]
    base = next(
        (_median(c, "seconds_per_step") for c in pooled if (c.strategy, c.loss_ablation) == (reference, None)), 0.0
    )
    rows = []
    for condition in pooled:
        step = _median(condition, "seconds_per_step")
        ratio = step / base if base > 0 else np.nan
        memory = _median(condition, "peak_memory_mib")
        skipped = float(sum(cell.skipped_steps for cell in condition.finished))
        entries = [
            Entry(_fixed(1000 * step, 1), step),
            Entry(_fixed(ratio, 3), ratio),
            Entry(_fixed(memory, 0), memory),
            Entry(_fixed(skipped, 0), skipped),
        ]
        rows.append(_row(condition, entries))
    head = ["strategy", "ms per step", f"ratio to {reference}", "peak memory, MiB", "skipped steps"]
    return Table("Median over the cells of each strategy; steps skipped by all of them", head, _bodies(pooled, rows))


def _median(condition: Condition, field: str) -> float:
    values = np.array([getattr(cell, field) for cell in condition.finished])
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _row(condition: Condition, entries: Sequence[Entry]) -> Row:
    failures = condition.failures
    if not failures:
        return Row(condition.strategy, "", entries)
    reasons = "; ".join(dict.fromkeys(str(cell.failure) for cell in failures))
    if not condition.finished:
        return Row(condition.strategy, "", [Entry(f"failed: {reasons}", mark="failed", span=len(entries))])
    return Row(condition.strategy, f"{len(failures)} of {len(condition.cells)} seeds failed: {reasons}", entries)


def _bodies(conditions: Sequence[Condition], rows: Sequence[Row]) -> list[list[Row]]:
    """Strategies, then loss ablations."""
    parts: list[list[Row]] = [[], []]
    for condition, row in zip(conditions, rows, strict=True):
        parts[condition.loss_ablation is not None].append(row)
    return [part for part in parts if part]


def _best(means: Sequence[float], metric: str) -> float:
    """NaN when there are no two different ones to choose from, or it is not known which end is the good one."""
    known = {mean for mean in means if np.isfinite(mean)}
    sign = describe(metric).sign
    return sign * max(sign * mean for mean in known) if sign and len(known) > 1 else np.nan


def _heading(metric: str) -> str:
    described = describe(metric)
    return f"{described.heading} {' ↑↓'[described.sign]}".rstrip()


def _interval(interval: Interval, digits: int, signed: bool = False) -> str:
    text = _fixed(interval.mean, digits, signed)
    return text if np.isnan(interval.half_width) else f"{text} ± {_fixed(interval.half_width, digits)}"


def _fixed(value: float, digits: int, signed: bool = False) -> str:
    if not np.isfinite(value):
        return _UNKNOWN
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", _MINUS)
