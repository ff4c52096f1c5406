"""The curves of an ablation: small multiples with the same axes, seeds averaged."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from codec.evaluation import describe
from codec.evaluation.report.charts import Series, area_chart, colors, line_chart
from codec.evaluation.report.page import Chart, read_metrics
from scripts.ablation.report.runs import Condition, number

__all__ = ["Multiples", "curves"]

Record = Mapping[str, Any]

_A_PANEL = 7  # strategies in one panel beside the reference, as many as there are colours
_REFERENCE_COLOR = "#8a8a8a"
_VALIDATION = {f"all/{metric}": describe(metric).heading for metric in ("mel_distance", "si_sdr_db", "ripple_db")}


class Multiples(NamedTuple):
    """Charts; those of one title have the same axes, and all when there is one legend for them."""

    title: str
    charts: Sequence[Chart]
    legend: Sequence[tuple[str, str]] = ()  # of all of them


class _Run(NamedTuple):
    """The records of a condition, a list per seed."""

    label: str
    is_reference: bool
    train: Sequence[Sequence[Record]]
    validation: Sequence[Sequence[Record]]


def curves(conditions: Sequence[Condition], reference: str) -> tuple[list[Multiples], list[str]]:
    """Losses, validation scores, gradient shares and cosines of the finished cells of one setting of the weights.

    Returns:
        What there is to draw, and a line for each metrics.jsonl that is not whole.
    """
    runs, notes = [], []
    for condition in conditions:
        train, validation = [], []
        for cell in condition.finished:
            records, unread = read_metrics(cell.folder / "metrics.jsonl")
            notes += [f"{cell.folder.name}: {note}" for note in unread]
            train.append([record for record in records if record["split"] == "train"])
            validation.append([record for record in records if record["split"] == "validation"])
        is_reference = condition.strategy == reference and condition.loss_ablation is None
        runs.append(_Run(condition.strategy, is_reference, train, validation))
    every_train = [record for run in runs for records in run.train for record in records]
    losses, shares, cosines = (_named(every_train, prefix) for prefix in ("loss/", "share/", "cosine/"))
    pairs = {key: name.replace("/", " and ") for key, name in cosines.items()}
    multiples = [
        Multiples("Training losses", _strategies_over_steps(runs, "train", losses, smooth=True)),
        Multiples("Held-out scores over steps", _strategies_over_steps(runs, "validation", _VALIDATION)),
        _losses_of_each("Share of the balanced gradient", runs, shares, stacked=True),
        _losses_of_each("Cosine between gradients", runs, pairs, stacked=False),
    ]
    return [group for group in multiples if group.charts], notes


def _strategies_over_steps(
    runs: Sequence[_Run], split: str, named: Mapping[str, str], smooth: bool = False
) -> list[Chart]:
    """Panels of a few strategies each for every quantity, the reference in grey in all of them."""
    charts = []
    for key, title in named.items():
        lines = []
        for run in runs:
            steps, (values,) = _averaged(getattr(run, split), [key])
            if np.isfinite(values).any():
                lines.append((run.is_reference, Series(run.label, steps, values, _REFERENCE_COLOR)))
        if not lines:
            continue
        log, limits = _value_axis(np.concatenate([line.values for _, line in lines]))
        extent = _extent(line for _, line in lines)
        common = [line for is_reference, line in lines if is_reference]
        others = [line for is_reference, line in lines if not is_reference]
        for start in range(0, max(1, len(others)), _A_PANEL):
            few = others[start : start + _A_PANEL]
            panel = common + [line._replace(color=c) for line, c in zip(few, colors(len(few)), strict=True)]
            svg = line_chart(panel, log=log, smooth=smooth, limits=limits, steps=extent)
            charts.append(Chart(title, Markup(svg), [(line.name, line.color) for line in panel]))
    return charts


def _value_axis(values: np.ndarray) -> tuple[bool, tuple[float, float]]:
    """Whether it is logarithmic, as `line_chart` would decide for all panels together, and its limits."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 0 and high > 30 * low:
        margin = (high / low) ** 0.04
        return True, (low / margin, high * margin)
    margin = 0.04 * (high - low) or abs(high) or 1.0
    return False, (low - margin, high + margin)


def _losses_of_each(title: str, runs: Sequence[_Run], named: Mapping[str, str], stacked: bool) -> Multiples:
    """A panel per strategy, a line or an area per loss or pair of losses."""
    drawn = []
    for run in runs:
        steps, values = _averaged(run.train, list(named))
        if np.isfinite(values).any():
            palette = zip(named.values(), values, colors(len(named)), strict=True)
            drawn.append((run.label, [Series(name, steps, row, color) for name, row, color in palette]))
    if not drawn:
        return Multiples(title, [])
    extent = _extent(line for _, series in drawn for line in series)
    charts = []
    for label, series in drawn:
        if stacked:
            svg = area_chart(series, steps=extent)
        else:
            svg = line_chart(series, log=False, smooth=True, limits=(-1.05, 1.05), steps=extent)
        if svg is not None:
            charts.append(Chart(label, Markup(svg), ()))
    return Multiples(title, charts, list(zip(named.values(), colors(len(named)), strict=True)))


def _extent(lines: Iterable[Series]) -> tuple[float, float] | None:
    """First and last step of all lines; None when there is only one."""
    steps = np.concatenate([line.steps for line in lines])
    return (float(steps.min()), float(steps.max())) if steps.min() < steps.max() else None


def _averaged(runs: Sequence[Sequence[Record]], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds at each step that has one of the keys.

    Shape: -> steps [N], values [keys, N], NaN where nothing is known.
    """
    at: dict[int, list[list[float]]] = defaultdict(list)
    for records in runs:
        for record in records:
            if any(key in record for key in keys):
                at[record["step"]].append([number(record.get(key)) for key in keys])
    steps = sorted(at)
    values = np.full((len(keys), len(steps)), np.nan)
    for column, step in enumerate(steps):
        rows = np.array(at[step])
        known = np.isfinite(rows)
        sums = np.where(known, rows, 0).sum(0)
        values[:, column] = np.divide(sums, known.sum(0), out=values[:, column], where=known.any(0))
    return np.array(steps, dtype=np.float64), values


def _named(records: Sequence[Record], prefix: str) -> dict[str, str]:
    keys = dict.fromkeys(key for record in records for key in record if key.startswith(prefix))
    return {key: key.removeprefix(prefix) for key in keys}
