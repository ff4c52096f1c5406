"""An evaluation as a table on the terminal, as JSON, CSV and Markdown, and as rate-distortion curves."""

import csv
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
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
from codec.evaluation.markdown import markdown_tables
from codec.evaluation.rate_distortion import Evaluation, Point
from codec.evaluation.report.charts import colors
from codec.evaluation.report.listening import write_listening_page

__all__ = ["print_evaluation", "write_evaluation"]

_LINE_STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o", "linestyle": "-"},
    {"marker": "s", "linestyle": ":", "markerfacecolor": "white"},
    {"marker": "^", "linestyle": "--", "markerfacecolor": "white"},
    {"marker": "D", "linestyle": "-.", "markerfacecolor": "white"},
)  # of the coders, in order; further ones begin again
_PLOT_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a folder may be called a$b
}
_MIN_COLUMNS = 160  # rich assumes 80 where the output is not a terminal, and would cut the table


def print_evaluation(evaluation: Evaluation) -> None:
    """Prints a table with one row per group, coder and bandwidth, and the notes below it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("group", "coder"):
        table.add_column(heading, no_wrap=True)
    metrics = evaluation.metrics.values()
    for heading in ("kbps", "with\nheaders", *(metric.label.replace(" ", "\n") for metric in metrics)):
        table.add_column(heading, justify="right", no_wrap=True)
    group = ""
    for point in evaluation.points:
        if point.group != group:
            table.add_section()
        table.add_row(
            point.group if point.group != group else "",
            point.coder if point.bandwidth_kbps is None else f"{point.coder} {point.bandwidth_kbps:g}",
            *(_format(rate, 2) for rate in (point.payload_kbps, point.file_kbps)),
            *(_format(point.scores[metric.name], metric.digits) for metric in metrics),
        )
        group = point.group
    # Not to stdout, because rich ends the process if that is a closed pipe.
    console = Console(file=io.StringIO(), highlight=False, markup=False)
    console.width = max(console.width, _MIN_COLUMNS)
    with console.capture() as text:
        console.print(table)
    print(text.get(), *evaluation.notes, sep="\n")


def _format(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "\N{EN DASH}"


def write_evaluation(evaluation: Evaluation, about: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes evaluation.json, evaluation.csv, evaluation.md (for a model card), rate_distortion.png and listening.html.

    Args:
        evaluation: Result to write.
        about: Further entries of the JSON file, among them `model`, `data` and `sample_rate` in Hz.
        folder: Existing folder.

    Returns:
        Paths of the files.

    Raises:
        OSError: A file cannot be written.
    """
    writers = {
        "evaluation.json": _write_json,
        "evaluation.csv": _write_csv,
        "evaluation.md": _write_markdown,
        "rate_distortion.png": _write_plot,
        "listening.html": _write_listening_page,
    }
    for name, write in writers.items():
        with atomic_write(folder / name) as temporary:
            write(evaluation, about, temporary)
    return [folder / name for name in writers]


def _write_json(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    content = {
        **about,
        "points": [point._asdict() for point in evaluation.points],
        "notes": evaluation.notes,
        "skipped_files": evaluation.skipped_files,
    }
    path.write_text(json.dumps(_with_null(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _with_null(value: Any) -> Any:
    """The value with None for numbers that are not finite, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _with_null(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        first, *_ = evaluation.measurements
        fields = [name for name in first._fields if name not in ("scores", "code_counts", "audio")]
        writer = csv.writer(file)
        names = [name for name, metric in evaluation.metrics.items() if metric.domain != "codes"]
        writer.writerow([*fields, *names])
        for measurement in evaluation.measurements:
            scores = (measurement.scores.get(name, math.nan) for name in names)
            cells = ("" if math.isnan(value) else value for value in scores)
            writer.writerow([*(getattr(measurement, field) for field in fields), *cells])


def _write_markdown(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    path.write_text(markdown_tables(evaluation, about), encoding="utf-8", errors="backslashreplace")


def _write_listening_page(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    title = f"{Path(about['model']).resolve().parent.name} on {about['data']}"
    write_listening_page(evaluation.measurements, about["sample_rate"], title, path)


def _write_plot(evaluation: Evaluation, about: Mapping[str, Any], path: Path) -> None:
    """A panel per metric of audio against the payload's bitrate, with a colour per group."""
    groups = list(dict.fromkeys(point.group for point in evaluation.points))
    coders = list(dict.fromkeys(point.coder for point in evaluation.points if point.bandwidth_kbps is not None))
    metrics = [metric for metric in evaluation.metrics.values() if metric.domain != "codes"]
    with matplotlib.rc_context(_PLOT_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a group may have a name in any script
        figure = Figure(figsize=(11, 5.4), layout="constrained")
        panels = figure.subplots(2, max(1, math.ceil(len(metrics) / 2)), squeeze=False)
        for axes in panels.flat[len(metrics) :]:
            axes.set_axis_off()
        for axes, metric in zip(panels.flat, metrics, strict=False):
            for group, color in zip(groups, colors(len(groups)), strict=True):
                for coder, style in zip(coders, cycle(_LINE_STYLES), strict=False):
                    curve = [point for point in evaluation.points if (point.group, point.coder) == (group, coder)]
                    _draw(axes, curve, metric.name, {"label": f"{coder}, {group}", "color": color, **style})
            axes.set_title(f"{metric.heading}, lower is better" if metric.sign < 0 else metric.heading)
        for axes in panels[-1]:
            axes.set_xlabel("bitrate without headers, kbps")
        handles, labels = panels.flat[0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
        figure.savefig(path, format="png", dpi=150)


def _draw(axes: Axes, curve: Sequence[Point], name: str, style: dict[str, Any]) -> None:
    if not curve:
        return
    # A codec whose files are not measured is drawn at its target.
    measured = [(p.payload_kbps if math.isfinite(p.payload_kbps) else p.bandwidth_kbps, p.scores[name]) for p in curve]
    rates, values = zip(*sorted(measured), strict=True)
    axes.plot(rates, values, markersize=4, linewidth=1.2, **style)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.2)
