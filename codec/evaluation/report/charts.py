"""Charts as data: the pages draw them in the browser, with values under the pointer and adjustable smoothing."""

import colorsys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

__all__ = ["Chart", "Series", "area_chart", "bar_chart", "color_ramp", "colors", "line_chart"]

_MAX_POINTS = 400
_LOG_RATIO = 30  # an axis of positive values is logarithmic if they differ by more
_PALETTE = ("#4a86c5", "#ee6677", "#228833", "#c9a227", "#aa3377", "#33aabb", "#e07b39", "#8a8a8a")


class Series(NamedTuple):
    """One line of a chart; NaN where the value is unknown."""

    name: str
    steps: np.ndarray  # [N]
    values: np.ndarray  # [N]
    color: str


class Chart(NamedTuple):
    """A drawing with its caption. The legend is HTML, so that names wrap."""

    title: str
    kind: Literal["line", "area", "bar"]
    series: Sequence[Series]
    log: bool = False  # whether the value axis is logarithmic
    smooth: bool = False  # whether the page's smoothing applies
    limits: tuple[float, float] | None = None  # of the value axis; None takes those of the values
    steps: tuple[float, float] | None = None  # limits of the step axis; None takes those of the lines
    legend: Sequence[tuple[str, str]] = ()  # name, colour

    @property
    def data(self) -> dict[str, Any]:
        """For JSON; values have five significant digits."""
        series = [
            {"name": line.name, "color": line.color, "x": _regular(line.steps), "y": _rounded(line.values)}
            for line in self.series
        ]
        chosen = {"log": self.log, "smooth": self.smooth, "limits": self.limits, "steps": self.steps}
        return {"kind": self.kind, "series": series} | {key: value for key, value in chosen.items() if value}


def colors(count: int) -> list[str]:
    """Distinct colours: easy to distinguish up to eight."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    return [_hex(index * 0.381966 % 1, 0.55 if index % 2 else 0.45, 0.55) for index in range(count)]


def color_ramp(count: int) -> list[str]:
    """Colours from blue to yellow, for lines with an order."""
    return [_hex(0.62 - 0.48 * position, 0.5, 0.6) for position in np.linspace(0, 1, count)]


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in colorsys.hls_to_rgb(hue, lightness, saturation))


def line_chart(
    title: str,
    series: Sequence[Series],
    log: bool | None = None,
    smooth: bool = False,
    limits: tuple[float, float] | None = None,
    steps: tuple[float, float] | None = None,
) -> Chart | None:
    """Lines over steps; None when there is nothing to draw.

    Args:
        series: Lines; values that are not finite are left out.
        log: Whether the value axis is logarithmic if all values are positive; None decides by their range.
    """
    finite = [line for line in map(_finite, series) if len(line.values)]
    if not finite:
        return None
    everything = np.concatenate([line.values for line in finite])
    if log is None:
        log = bool(everything.max() > _LOG_RATIO * everything.min())
    drawn = [line._replace(steps=_binned(line.steps), values=_binned(line.values)) for line in finite]
    legend = [(line.name, line.color) for line in series] if len(series) > 1 else []
    return Chart(title, "line", drawn, log and bool((everything > 0).all()), smooth, limits, steps, legend)


def area_chart(title: str, series: Sequence[Series], steps: tuple[float, float] | None = None) -> Chart | None:
    """Stacked shares of a whole over steps, all at the same steps; None when there is nothing to draw.

    Unknown and negative shares count as 0.
    """
    if not any(len(_finite(line).values) for line in series):
        return None
    drawn = []
    for line in series:
        values = np.clip(np.nan_to_num(line.values, nan=0.0, posinf=0.0, neginf=0.0), 0, None)
        drawn.append(line._replace(steps=_binned(line.steps), values=_binned(values)))
    return Chart(title, "area", drawn, steps=steps, legend=[(line.name, line.color) for line in series])


def bar_chart(title: str, values: np.ndarray, color: str, top: float | None = None) -> Chart | None:
    """One bar for each codebook, numbered from 1; None when there is nothing to draw. Shape: values [K]."""
    if not np.isfinite(values).any():
        return None
    bars = Series(title, np.arange(1, len(values) + 1), values, color)
    return Chart(title, "bar", [bars], limits=None if top is None else (0.0, top))


def _finite(line: Series) -> Series:
    known = np.isfinite(line.values)
    return line._replace(steps=line.steps[known], values=line.values[known])


def _binned(values: np.ndarray) -> np.ndarray:
    """Means of neighbours, at most _MAX_POINTS of them, so that the page of a long run stays small."""
    if len(values) <= _MAX_POINTS:
        return values
    edges = np.linspace(0, len(values), _MAX_POINTS + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def _regular(steps: np.ndarray) -> list[float] | dict[str, float]:
    """The steps, or their start and interval if they are regular."""
    intervals = np.diff(steps)
    if len(steps) > 2 and (intervals == intervals[0]).all():
        return {"start": float(steps[0]), "every": float(intervals[0])}
    return [round(float(step), 1) for step in steps]
