"""Draws the figures of docs/ablation.md from the folder of an ablation.

python -m scripts.ablation.figures FOLDER OUTPUT [--baseline NAME] [--scores X Y]

Writes quality.svg, gradients.svg, shares.svg, effects.svg and costs.svg to OUTPUT, and weights.svg if there is more
than one setting of the loss weights.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codec.evaluation import METRICS, describe
from codec.evaluation.report.charts import colors
from codec.evaluation.report.records import Record, keys_with_prefix, read_metrics
from scripts.ablation.report.runs import Condition, conditions_by_weights, read_runs
from scripts.ablation.report.shares import mean_shares
from scripts.ablation.report.statistics import Interval, mean_interval
from scripts.errors import describe_error

__all__ = ["draw", "main"]

_GRAY = "#8a8a8a"


def draw(folder: Path, output: Path, baseline: str, scores: Sequence[str]) -> list[Path]:
    """Draws every figure for which the ablation has values.

    Args:
        folder: Of the ablation.
        output: Folder of the figures.
        baseline: Strategy that is drawn in gray, and whose gradients are shown.
        scores: Two scores, GROUP/METRIC: the axes of quality.svg, the panels of weights.svg and effects.svg.

    Returns:
        The files.

    Raises:
        ValueError: No run of `baseline` has finished, or a score was not measured.
    """
    settings = conditions_by_weights(read_runs(folder)[0], baseline)
    conditions = [c for c in next(iter(settings.values()), []) if c.loss_ablation is None and c.finished]
    base = next((condition for condition in conditions if condition.is_strategy(baseline)), None)
    if base is None:
        raise ValueError(f"{folder}: no run of {baseline} has finished, so there is nothing to draw")
    measured = {score for condition in conditions for run in condition.finished for score in run.scores}
    if missing := [score for score in scores if score not in measured]:
        raise ValueError(f"{missing[0]} was not measured, expected one of {', '.join(sorted(measured))}")
    figures = {"quality": _quality(conditions, baseline, scores), "costs": _costs(conditions, base)}
    if (gradients := _gradients(base)) is not None:
        figures["gradients"] = gradients
    if (shares := _shares(conditions)) is not None:
        figures["shares"] = shares
        figures["effects"] = _effects(settings, baseline, scores)
    if len(settings) > 1:
        figures["weights"] = _weights(settings, baseline, scores)
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / f"{name}.svg" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, metadata={"Date": None})
    return paths


def _quality(conditions: Sequence[Condition], baseline: str, scores: Sequence[str]) -> Figure:
    """Two scores of every strategy, with 95 % intervals over seeds."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for condition in conditions:
        x, y = (_interval(condition, score) for score in scores)
        color = _GRAY if condition.is_strategy(baseline) else "#4a86c5"
        axes.errorbar(x.mean, y.mean, _half(y), _half(x), "o", color=color, capsize=2, lw=1)
        axes.annotate(condition.strategy, (x.mean, y.mean), (4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel=_label(scores[0]), ylabel=_label(scores[1]))
    axes.grid(alpha=0.3)
    return figure


def _costs(conditions: Sequence[Condition], base: Condition) -> Figure:
    """Time of a step relative to the baseline's; one dot per run, each in a process of its own."""
    figure = Figure(figsize=(6.4, 0.5 + 0.26 * len(conditions)), layout="constrained")
    axes = figure.subplots()
    reference = float(np.nanmedian([run.seconds_per_step for run in base.finished]))
    for row, condition in enumerate(conditions):
        ratios = [run.seconds_per_step / reference for run in condition.finished]
        axes.plot(ratios, [row] * len(ratios), "o", color="#4a86c5", alpha=0.7)
    axes.axvline(1.0, color=_GRAY, lw=1)
    axes.set_yticks(range(len(conditions)), [condition.strategy for condition in conditions])
    axes.invert_yaxis()
    axes.set_xlabel(f"time of a step, relative to the median of {base.strategy}")
    return figure


def _gradients(base: Condition) -> Figure | None:
    """Norms of the losses' gradients at the decoder output, and cosines between them, over the steps; mean of seeds."""
    logs = list(_train_logs(base))
    norms, cosines = (_curves(logs, prefix) for prefix in ("norm/", "cosine/"))
    if not norms or not cosines:
        return None
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, norms)
    left.set(yscale="log", ylabel="norm of the gradient")
    _lines(right, {name.replace("/", ", "): curve for name, curve in cosines.items()})
    right.axhline(0, color=_GRAY, lw=1)
    right.set(ylabel="cosine")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.legend(fontsize=7)
    return figure


def _shares(conditions: Sequence[Condition]) -> Figure | None:
    """Share of each loss in the sum of the weighted gradient norms over the steps; a panel per strategy."""
    shares = {condition.strategy: _curves(list(_train_logs(condition)), "share/") for condition in conditions}
    shares = {strategy: curves for strategy, curves in shares.items() if curves}
    if not shares:
        return None
    rows = -(-len(shares) // 4)
    figure = Figure(figsize=(9.0, 0.4 + 1.7 * rows), layout="constrained")
    panels = list(figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False).flat)
    names: list[str] = []
    for axes, (strategy, curves) in zip(panels, shares.items(), strict=False):
        names = list(curves)
        steps = next(iter(curves.values()))[0]
        axes.stackplot(steps, [values for _, values in curves.values()], colors=colors(len(names)), labels=names)
        axes.set_title(strategy, fontsize=8)
        axes.set_ylim(0, 1)
    for axes in panels[len(shares) :]:
        axes.set_axis_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=8)
    return figure


def _effects(settings: Mapping[str, Sequence[Condition]], baseline: str, scores: Sequence[str]) -> Figure:
    """Both scores of every run against the share of each loss: a column for each loss, a color for each strategy."""
    points: dict[str, list[tuple[dict[str, float], Mapping[str, float]]]] = {}
    for condition in (c for conditions in settings.values() for c in conditions if c.loss_ablation is None):
        of_runs = [(mean_shares([run]), run.scores) for run in condition.finished]
        points.setdefault(condition.strategy, []).extend(of_runs)
    losses = list(dict.fromkeys(loss for each in points.values() for shares, _ in each for loss in shares))
    figure = Figure(figsize=(9.0, 0.6 + 2.1 * len(scores)), layout="constrained")
    panels = figure.subplots(len(scores), len(losses), sharex="col", sharey="row", squeeze=False)
    for (strategy, each), color in zip(points.items(), colors(len(points)), strict=True):
        shown = _GRAY if strategy == baseline else color
        for row, score in zip(panels, scores, strict=True):
            for axes, loss in zip(row, losses, strict=True):
                x = [100 * shares.get(loss, np.nan) for shares, _ in each]
                axes.plot(x, [values.get(score, np.nan) for _, values in each], "o", ms=4, color=shown, label=strategy)
    for axes, loss in zip(panels[-1], losses, strict=True):
        axes.set(xscale="log", xlim=(0.02, 150), xlabel=f"share of {loss}, %")
        axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.minorticks_off()
    for row, score in zip(panels, scores, strict=True):
        row[0].set_ylabel(_label(score).replace(", higher", ",\nhigher").replace(", lower", ",\nlower"), fontsize=8)
        for axes in row:
            axes.grid(alpha=0.3)
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(8, len(points)), fontsize=8)
    return figure


def _weights(settings: Mapping[str, Sequence[Condition]], baseline: str, scores: Sequence[str]) -> Figure:
    """Both scores of every strategy under each setting of the loss weights, a row for each setting."""
    everything = [condition for conditions in settings.values() for condition in conditions]
    strategies = list(dict.fromkeys(c.strategy for c in everything if c.loss_ablation is None and c.finished))
    labels = [_factors(conditions[0]) for conditions in settings.values()]
    figure = Figure(figsize=(9.0, 0.9 + 0.28 * len(settings)), layout="constrained")
    for axes, score in zip(figure.subplots(1, len(scores), sharey=True), scores, strict=True):
        means = np.full((len(strategies), len(settings)), np.nan)
        for row, strategy in enumerate(strategies):
            found = [next((c for c in each if c.is_strategy(strategy)), None) for each in settings.values()]
            means[row] = [np.nan if c is None else _interval(c, score).mean for c in found]
        axes.hlines(range(len(settings)), np.nanmin(means, axis=0), np.nanmax(means, axis=0), color="#d0d0d0", lw=1)
        for strategy, values, color in zip(strategies, means, colors(len(strategies)), strict=True):
            axes.plot(values, range(len(settings)), "o", color=_GRAY if strategy == baseline else color, label=strategy)
        axes.set_yticks(range(len(settings)), labels, fontsize=7)
        axes.set_xlabel(_label(score))
        axes.grid(alpha=0.3)
    figure.axes[0].invert_yaxis()
    figure.axes[0].legend(fontsize=7)
    return figure


def _factors(condition: Condition) -> str:
    """The loss weights of a condition as factors of the default ones, such as `10 l1, 2 mel`."""
    factors = condition.runs[0].weight_factors
    return ", ".join(f"{factor:g} {loss}" for loss, factor in factors.items()) or "default"


def _interval(condition: Condition, score: str) -> Interval:
    return mean_interval(condition.values(score))


def _half(interval: Interval) -> float | None:
    return interval.half_width if np.isfinite(interval.half_width) else None


def _label(score: str) -> str:
    group, _, name = score.rpartition("/")
    metric = describe(name, METRICS)
    direction = {1: ", higher is better", -1: ", lower is better"}.get(metric.sign, "")
    return f"{group}: {metric.heading}{direction}" if group else f"{metric.heading}{direction}"


def _train_logs(condition: Condition) -> Iterator[list[Record]]:
    for run in condition.finished:
        records, _ = read_metrics(run.folder / "metrics.jsonl")
        yield [record for record in records if record["split"] == "train"]


def _curves(logs: Sequence[Sequence[Record]], prefix: str) -> dict[str, tuple[list[int], np.ndarray]]:
    """Name without `prefix` -> steps, and the mean over the runs; the steps are those that all runs have."""
    curves = {}
    for key in keys_with_prefix([record for log in logs for record in log], prefix):
        runs = [{record["step"]: record[key] for record in log if record.get(key) is not None} for log in logs]
        steps = sorted(set.intersection(*(set(run) for run in runs)))
        if steps:
            values = np.array([[run[step] for step in steps] for run in runs], dtype=float)
            curves[key.removeprefix(prefix)] = (steps, values.mean(axis=0))
    return curves


def _lines(axes: Axes, curves: Mapping[str, tuple[list[int], np.ndarray]]) -> None:
    for (name, (steps, values)), color in zip(curves.items(), colors(len(curves)), strict=True):
        axes.plot(steps, values, color=color, lw=1, label=name)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module docstring."""
    parser = argparse.ArgumentParser(prog="scripts.ablation.figures", description="Draws the figures of an ablation.")
    parser.add_argument("folder", type=Path, help="of the ablation")
    parser.add_argument("output", type=Path, help="folder of the figures")
    parser.add_argument("--baseline", default="weighted_sum", help="strategy drawn in gray (%(default)s)")
    parser.add_argument("--scores", nargs=2, default=["speech/pesq", "music/visqol"], metavar=("X", "Y"),
                        help="GROUP/METRIC (%(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        paths = draw(options.folder, options.output, options.baseline, options.scores)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {describe_error(error)}\n")
    print(*paths, sep="\n")


if __name__ == "__main__":
    main()
