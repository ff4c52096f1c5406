"""An evaluation as a table on the terminal, as JSON and CSV, and as rate-distortion curves."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from codec.atomic_file import atomic_write
from codec.evaluation.metrics import describe
from codec.evaluation.rate_distortion import EVERYTHING, Evaluation, Point
from codec.evaluation.report.charts import colors

__all__ = ["print_evaluation", "write_evaluation"]

_STYLES: dict[str, dict[str, Any]] = {
    "codec": {"marker": "o", "linestyle": "-"},
    "opus": {"marker": "s", "linestyle": ":", "markerfacecolor": "white"},
}
_LEAST_WIDTH = 100  # where output is no terminal, rich believes in 80 columns and would cut the table


def print_evaluation(evaluation: Evaluation) -> None:
    """Prints a table with one row per group, coder and bandwidth, and what was left out."""
    names = list(evaluation.points[0].scores)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("group", "coder"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "kbps",
        "with\nheaders",
        *(describe(name).label.split()[0] for name in names),
        "bits\nused",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    group = ""
    for point in evaluation.points:
        if point.group != group:
            table.add_section()
        table.add_row(
            point.group if point.group != group else "",
            f"{point.coder} {point.bandwidth_kbps:g}",
            *(f"{rate:.2f}" for rate in (point.payload_kbps, point.file_kbps)),
            *(_shown(point.scores[name], 1 if name.endswith("_db") else 2) for name in names),
            _shown(100 * point.bitrate_efficiency, 0, " %"),
        )
        group = point.group
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(table)
    for note in evaluation.notes:
        console.print(note, soft_wrap=True)


def _shown(value: float, digits: int, unit: str = "") -> str:
    return f"{value:.{digits}f}{unit}" if math.isfinite(value) else "\N{EN DASH}"


def write_evaluation(evaluation: Evaluation, about: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes evaluation.json, evaluation.csv and rate_distortion.png.

    Args:
        evaluation: What to write.
        about: Further entries of the JSON file: which model, which data.
        folder: Which must exist.

    Returns:
        Where they are.

    Raises:
        OSError: One cannot be written.
    """
    writers = {"evaluation.json": _write_json, "evaluation.csv": _write_csv, "rate_distortion.png": _write_plot}
    for name, write in writers.items():
        with atomic_write(folder / name) as temporary:
            write(evaluation, about, temporary)
    return [folder / name for name in writers]


def _write_json(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    content = {
        **about,
        "points": [point._asdict() for point in evaluation.points],
        "notes": evaluation.notes,
        "set_aside": evaluation.set_aside,
    }
    path.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """The same with null for what is no finite number, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        first, *_ = evaluation.measurements
        fields = [name for name in first._fields if name not in ("scores", "code_counts")]
        writer = csv.writer(file)
        writer.writerow([*fields, *first.scores])
        for measurement in evaluation.measurements:
            scores = ("" if math.isnan(value) else value for value in measurement.scores.values())
            writer.writerow([*(getattr(measurement, field) for field in fields), *scores])


def _write_plot(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    """A panel per score over the payload's bitrate, a colour per group."""
    groups = list(dict.fromkeys(p.group for p in evaluation.points if p.group != EVERYTHING))
    names = list(evaluation.points[0].scores)
    # A folder may be called a$b.
    style: dict[Any, Any] = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        panels = figure.subplots(2, math.ceil(len(names) / 2))
        for axes, name in zip(panels.flat, names, strict=False):
            metric = describe(name)
            for group, color in zip(groups, colors(len(groups)), strict=True):
                for coder in _STYLES:
                    curve = [p for p in evaluation.points if (p.group, p.coder) == (group, coder)]
                    _draw(axes, curve, name, f"{coder}, {group}", color)
            axes.set_title(f"{metric.heading}, lower is better" if metric.sign < 0 else metric.heading)
        for axes in panels[-1]:
            axes.set_xlabel("bitrate without headers, kbps")
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
        figure.savefig(path, format="png", dpi=150)


def _draw(axes: Axes, curve: list[Point], name: str, label: str, color: str) -> None:
    if not curve:
        return
    curve = sorted(curve, key=lambda point: point.payload_kbps)
    rates, values = [point.payload_kbps for point in curve], [point.scores[name] for point in curve]
    axes.plot(rates, values, label=label, color=color, markersize=4, linewidth=1.2, **_STYLES[curve[0].coder])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.2)
