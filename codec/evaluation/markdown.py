"""The tables of a model card from an evaluation: one for each group of clips, whoever is better in it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from codec.evaluation.metrics import Metric
from codec.evaluation.rate_distortion import Evaluation, Point
from codec.evaluation.report.records import format_fixed

__all__ = ["markdown_tables"]


def markdown_tables(evaluation: Evaluation, about: Mapping[str, Any]) -> str:
    """A Markdown table for each group: all codecs by bitrate, and all metrics that have a score in the group.

    Args:
        about: `data`, the folder that was evaluated.
    """
    lines = [
        f"Means over the clips of `{about['data']}` ± half of the 95 % interval (Student's t). "
        "↑ higher is better, ↓ lower is better."
    ]
    for group in dict.fromkeys(point.group for point in evaluation.points):
        points = sorted((point for point in evaluation.points if point.group == group), key=_bitrate)
        count = max(point.clips for point in points)
        lines += ["", f"### {group}, {count} clip{'s' if count > 1 else ''}", ""]
        lines += _table(points, evaluation.metrics)
    lines += ["", *(f"- {note}" for note in evaluation.notes)] if evaluation.notes else []
    return "\n".join(lines) + "\n"


def _table(points: Sequence[Point], metrics: Mapping[str, Metric]) -> list[str]:
    shown = [m for m in metrics.values() if any(math.isfinite(point.scores[m.name]) for point in points)]
    headings = [f"{metric.heading} {' ↑↓'[metric.sign]}".rstrip() for metric in shown]
    rows = [["", "kbit/s", *headings], ["---", *["---:"] * (len(headings) + 1)]]
    for point in points:
        name = point.coder if point.bandwidth_kbps is None else f"{point.coder} {point.bandwidth_kbps:g}"
        rows.append([name, format_fixed(point.payload_kbps, 2), *(_score(point, metric) for metric in shown)])
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]


def _bitrate(point: Point) -> float:
    """The measured bitrate, or else the target; 0 for the recording."""
    return point.payload_kbps if math.isfinite(point.payload_kbps) else point.bandwidth_kbps or 0.0


def _score(point: Point, metric: Metric) -> str:
    text = format_fixed(point.scores[metric.name], metric.digits)
    half = point.intervals.get(metric.name, math.nan)
    return f"{text} ± {format_fixed(half, metric.digits)}" if math.isfinite(half) else text
