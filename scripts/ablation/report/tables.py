"""The tables of an ablation's page: scores, differences to the baseline, loss weights, and cost."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from codec.evaluation import Metric, describe
from codec.evaluation.report.records import UNKNOWN, format_fixed
from scripts.ablation.report.runs import Condition, Run, ordered
from scripts.ablation.report.statistics import (
    LEVEL,
    Difference,
    Interval,
    clearly_best,
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
    "cost_table",
    "described",
    "difference_table",
    "score_table",
    "weights_table",
]

_TABLE_A4 = ("si_sdr_db", "visqol")
_BALANCED, _UNBALANCED = "encodec", "weighted_sum"


class Entry(NamedTuple):
    """One table cell."""

    text: str
    sort: float = np.nan  # NaN is sorted last in either direction
    detail: str = ""
    mark: str = ""  # CSS class: "best", "better", "worse" or "failed"
    span: int = 1


class Row(NamedTuple):
    name: str
    note: str
    entries: Sequence[Entry]


class Table(NamedTuple):
    """Rows are sorted within their body."""

    caption: str
    head: Sequence[str]  # the heading of the row names first
    bodies: Sequence[Sequence[Row]]
    spans: Sequence[tuple[str, int]] = ()  # headings above `head`, with the number of columns that they span


def described(names: Iterable[str], metrics: Mapping[str, Metric]) -> dict[str, list[Metric]]:
    """The scores of these names by group of clips; metrics of codes, which have no group, are last under "".

    Args:
        names: GROUP/METRIC or METRIC.
        metrics: Labels and directions. Their order is that of the result, before others by name.

    Returns:
        Group -> its metrics, whose `name` is the whole name of the score.
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        group, _, metric = name.rpartition("/")
        groups.setdefault(group, []).append(metric)
    return {
        group: [
            replace(describe(name, metrics), name=f"{group}/{name}" if group else name)
            for name in ordered(groups[group], metrics)
        ]
        for group in sorted(groups, key=lambda group: (not group, group))
    }


def score_table(
    caption: str,
    conditions: Sequence[Condition],
    metrics: Sequence[Metric],
    start: Sequence[Run] = (),
) -> Table:
    """A row per condition. The best mean of a column is marked if it is clearly best; loss ablations do not compete.

    Args:
        start: The scored checkpoint that the runs start from, which does not compete either.
    """
    columns = [[mean_interval(condition.values(metric.name)) for condition in conditions] for metric in metrics]
    rivals = [condition for condition in conditions if condition.loss_ablation is None]
    best = [_best(rivals, metric) for metric in metrics]
    rows = []
    for row, condition in enumerate(conditions):
        entries = []
        for metric, column, winner in zip(metrics, columns, best, strict=True):
            mark = "best" if condition is winner else ""
            entries.append(Entry(_interval(column[row], metric.digits), column[row].mean, mark=mark))
        rows.append(_row(condition, entries))
    before = [
        Row(run.strategy, "", [Entry(format_fixed(run.score(m.name), m.digits), run.score(m.name)) for m in metrics])
        for run in start
    ]
    bodies = [body for body in (before, *_bodies(conditions, rows)) if body]
    return Table(caption, ["strategy", *map(_heading, metrics)], bodies)


def difference_table(
    caption: str, conditions: Sequence[Condition], baseline: Condition, metrics: Sequence[Metric]
) -> tuple[Table, list[str]]:
    """Paired differences to `baseline`. For each metric, p is Holm-corrected over the rows with the same test.

    Returns:
        The table, and sentences on what these numbers of seeds and clips can show.
    """
    compared = [condition for condition in conditions if condition is not baseline]
    columns = []
    for metric in metrics:
        against = baseline.clip_scores(metric.name)
        columns.append([paired_difference(condition.clip_scores(metric.name), against) for condition in compared])
    corrected = [_corrected_p(differences) for differences in columns]
    tests = {(d.test, d.n) for differences in columns for d in differences if d is not None}
    rows = []
    for row, condition in enumerate(compared):
        entries = [
            _difference(differences[row], p[row], metric, name_test=len(tests) > 1)
            for metric, differences, p in zip(metrics, columns, corrected, strict=True)
        ]
        rows.append(_row(condition, entries))
    table = Table(caption, ["strategy", *map(_heading, metrics)], _bodies(compared, rows))
    return table, _power_sentences(columns)


def _corrected_p(differences: Sequence[Difference | None]) -> np.ndarray:
    """t-tests and Wilcoxon tests are corrected separately: one compares training runs, the other clips."""
    result = np.full(len(differences), np.nan)
    for test in ("t", "Wilcoxon"):
        family = [i for i, difference in enumerate(differences) if difference is not None and difference.test == test]
        result[family] = holm(np.array([d.p for d in differences if d is not None and d.test == test]))
    return result


def _difference(difference: Difference | None, p: float, metric: Metric, name_test: bool) -> Entry:
    if difference is None:
        return Entry(UNKNOWN)
    detail = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if np.isfinite(p) else "no variance: no test"
    if name_test:
        detail = f"{difference.test}, {difference.n} {'seeds' if difference.test == 't' else 'clips'}, {detail}"
    mean, mark = difference.interval.mean, ""
    if p < LEVEL and metric.sign:
        mark = "better" if mean * metric.sign > 0 else "worse"
        detail = f"{detail}: {mark}"
    return Entry(_interval(difference.interval, metric.digits, signed=True), mean, detail, mark)


def _power_sentences(columns: Sequence[Sequence[Difference | None]]) -> list[str]:
    """A sentence per test and number of seeds or clips, for the largest number of comparisons."""
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
            few = " So few seeds show only large differences." if count <= 3 else ""
            sentences.append(
                f"Paired t-test, {count} seeds, {comparisons}: to pass at 5 %, the largest mean difference must be "
                f"{detectable_ratio(count, sizes[test]):.1f} times its standard deviation over seeds.{few}"
            )
        else:
            smallest = min(1.0, smallest_wilcoxon_p(count) * sizes[test])
            none = ", so no difference can pass at 5 %" if smallest >= LEVEL else ""
            sentences.append(
                f"One seed: Wilcoxon's signed-rank test over {count} clip{'s' if count > 1 else ''}, {comparisons}. "
                f"The smallest possible p is {smallest:.2g}{none}. It compares the clips of one training run; another "
                "seed may give another result."
            )
    return sentences


def weights_table(settings: Mapping[str, Sequence[Condition]], metrics: Mapping[str, Metric]) -> Table | None:
    """Scores with and without balancing for each setting of the loss weights, as in EnCodec's table A.4.

    Returns:
        None unless at least two settings have both strategies.
    """
    pairs = {}
    for weights, conditions in settings.items():
        named = {condition.strategy: condition for condition in conditions if condition.loss_ablation is None}
        if _BALANCED in named and _UNBALANCED in named:
            pairs[weights] = (named[_BALANCED], named[_UNBALANCED])
    if len(pairs) < 2:
        return None
    # Table A.4 has SI-SDR and ViSQOL; if one was not measured in a group, the next metric replaces it.
    runs = [run for pair in pairs.values() for condition in pair for run in condition.finished]
    measured = described((name for run in runs for name in run.scores), metrics)
    columns = {
        group: sorted(scores, key=lambda metric: [not metric.name.endswith(f"/{name}") for name in _TABLE_A4])[:2]
        for group, scores in measured.items()
        if group
    }
    rows = []
    for weights, pair in pairs.items():
        entries = []
        for metric in (metric for of_group in columns.values() for metric in of_group):
            intervals = [mean_interval(condition.values(metric.name)) for condition in pair]
            best = _best(pair, metric)
            for interval, condition in zip(intervals, pair, strict=True):
                text = _interval(interval, metric.digits) if condition.finished else "failed"
                entries.append(Entry(text, interval.mean, mark="best" if condition is best else ""))
        rows.append(Row(weights, "", entries))
    spans = [("", 1)]
    spans += [(f"{group}: {_heading(metric)}", 2) for group, of_group in columns.items() for metric in of_group]
    head = ["weights", *(f"with balancing ({_BALANCED})", f"without ({_UNBALANCED})") * (len(spans) - 1)]
    caption = "Loss weights with and without balancing, as in EnCodec's table A.4; mean ± 95 % interval over seeds"
    return Table(caption, head, [rows], spans)


def cost_table(settings: Mapping[str, Sequence[Condition]], baseline: str) -> Table:
    """A row per strategy with medians over its finished runs, whatever their loss weights."""
    merged: dict[tuple[str, str | None], list[Run]] = {}
    for conditions in settings.values():
        for condition in conditions:
            merged.setdefault((condition.strategy, condition.loss_ablation), []).extend(condition.runs)
    pooled = [Condition(strategy, "default", ablation, runs) for (strategy, ablation), runs in merged.items()]
    baseline_step = next((_median(c, "seconds_per_step") for c in pooled if c.is_strategy(baseline)), 0.0)
    rows = []
    for condition in pooled:
        step = _median(condition, "seconds_per_step")
        ratio = step / baseline_step if baseline_step > 0 else np.nan
        memory = _median(condition, "peak_memory_mib")
        skipped = float(sum(run.skipped_steps for run in condition.finished))
        entries = [
            Entry(format_fixed(1000 * step, 1), step),
            Entry(format_fixed(ratio, 3), ratio),
            Entry(format_fixed(memory, 0), memory),
            Entry(format_fixed(skipped, 0), skipped),
        ]
        rows.append(_row(condition, entries))
    head = ["strategy", "ms per step", f"ratio to {baseline}", "peak memory, MiB", "skipped steps"]
    caption = (
        "Medians over the runs of each strategy, each of which has a process of its own; skipped steps are the sum"
    )
    return Table(caption, head, _bodies(pooled, rows))


def _median(condition: Condition, field: str) -> float:
    values = np.array([getattr(run, field) for run in condition.finished])
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan


def _row(condition: Condition, entries: Sequence[Entry]) -> Row:
    failed = condition.failed
    if not failed:
        return Row(condition.strategy, "", entries)
    reasons = "; ".join(dict.fromkeys(str(run.failure) for run in failed))
    if not condition.finished:
        return Row(condition.strategy, "", [Entry(f"failed: {reasons}", mark="failed", span=len(entries))])
    return Row(condition.strategy, f"{len(failed)} of {len(condition.runs)} seeds failed: {reasons}", entries)


def _bodies(conditions: Sequence[Condition], rows: Sequence[Row]) -> list[list[Row]]:
    """Strategies, then loss ablations."""
    parts: list[list[Row]] = [[], []]
    for condition, row in zip(conditions, rows, strict=True):
        parts[condition.loss_ablation is not None].append(row)
    return [part for part in parts if part]


def _best(conditions: Sequence[Condition], metric: Metric) -> Condition | None:
    """The condition that is clearly the best one, if there is one."""
    scores = [{run.seed: run.score(metric.name) for run in condition.finished} for condition in conditions]
    position = clearly_best(scores, metric.sign)
    return None if position is None else conditions[position]


def _heading(metric: Metric) -> str:
    return f"{metric.heading} {' ↑↓'[metric.sign]}".rstrip()


def _interval(interval: Interval, digits: int, signed: bool = False) -> str:
    text = format_fixed(interval.mean, digits, signed)
    return text if np.isnan(interval.half_width) else f"{text} ± {format_fixed(interval.half_width, digits)}"
