"""Small charts as inline SVG. They use the text colour of the page, so they suit light and dark pages."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

__all__ = ["Series", "area_chart", "bar_chart", "color_ramp", "colors", "line_chart"]

_MAX_POINTS = 400
# A grey that nothing else uses; `_svg` replaces it by currentColor, the text colour of the page.
_TEXT = "#010203"
_PALETTE = ("#4a86c5", "#ee6677", "#228833", "#c9a227", "#aa3377", "#33aabb", "#e07b39", "#8a8a8a")
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,  # a loss may be called a$b
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 5),
    "axes.unicode_minus": True,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "ytick.minor.width": 0.3,
    "grid.color": _TEXT,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
}


class Series(NamedTuple):
    """One line of a chart; NaN where the value is unknown."""

    name: str
    steps: np.ndarray  # [N]
    values: np.ndarray  # [N]
    color: str


def colors(count: int) -> list[str]:
    """Distinct colours: easy to distinguish up to eight, repeated after twenty."""
    twenty = [matplotlib.colors.to_hex(color) for color in matplotlib.colormaps["tab20"](np.arange(20))]
    chosen = _PALETTE if count <= len(_PALETTE) else twenty
    return [chosen[index % len(chosen)] for index in range(count)]


def color_ramp(count: int) -> list[str]:
    """Colours from dark to light, for lines with an order."""
    ramp = matplotlib.colormaps["plasma"](np.linspace(0.25, 0.85, count))
    return [matplotlib.colors.to_hex(color) for color in ramp]


def line_chart(
    series: Sequence[Series],
    log: bool | None = None,
    smooth: bool = False,
    limits: tuple[float, float] | None = None,
    steps: tuple[float, float] | None = None,
) -> str | None:
    """Lines over steps.

    Args:
        series: Lines; values that are not finite are left out.
        log: Whether the value axis is logarithmic; None decides by the range of the values.
        smooth: Whether to add a moving average over a twentieth of the run and draw the values faintly.
        limits: Limits of the value axis; None takes those of the values.
        steps: Limits of the step axis; None takes those of the lines.

    Returns:
        The SVG element, or None when there is nothing to draw.
    """
    finite = [line for line in map(_finite, series) if len(line.values)]
    if not finite:
        return None
    everything = np.concatenate([line.values for line in finite])
    positive = bool((everything > 0).all())
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        for line in finite:
            _draw(axes, line, smooth)
        if positive and (log or (log is None and everything.max() > 30 * everything.min())):
            _set_log(axes, float(everything.max() / everything.min()))
        if limits is not None:
            axes.set_ylim(*limits)
            if limits[0] < 0 < limits[1]:
                axes.axhline(0, color=_TEXT, linewidth=0.5, alpha=0.5)
        if steps is not None:
            axes.set_xlim(*steps)
        return _svg(figure)


def area_chart(series: Sequence[Series], steps: tuple[float, float] | None = None) -> str | None:
    """Stacked shares of a whole over steps. Unknown and negative shares count as 0.

    Args:
        series: Shares, all at the same steps.
        steps: Limits of the step axis; None takes those of the series.

    Returns:
        The SVG element, or None when there is nothing to draw.
    """
    if not series or not any(len(_finite(line).values) for line in series):
        return None
    at = series[0].steps
    if len(at) == 1:
        at = np.array([at[0] - 0.5, at[0] + 0.5])
    stacked = []
    for line in series:
        values = np.clip(np.nan_to_num(line.values, nan=0.0, posinf=0.0, neginf=0.0), 0, None)
        stacked.append(np.resize(values, len(at)) if len(values) == 1 else values)
    at, *stacked = (_binned(row) for row in (at, *stacked))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        axes.stackplot(at, *stacked, colors=[line.color for line in series], alpha=0.85, linewidth=0)
        axes.margins(x=0, y=0)
        if steps is not None:
            axes.set_xlim(*steps)
        return _svg(figure)


def bar_chart(values: np.ndarray, bar_colors: Sequence[str], top: float | None = None) -> str | None:
    """One bar for each codebook, numbered from 1; None when there is nothing to draw.

    Shape: values [K].
    """
    if not np.isfinite(values).any():
        return None
    numbers = np.arange(1, len(values) + 1)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        axes.bar(numbers, np.nan_to_num(values), color=list(bar_colors), width=0.75)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.4, len(values) + 0.6)
        axes.set_xlabel("codebook")
        if top is not None:
            axes.set_ylim(0, top)
        return _svg(figure)


def _figure() -> tuple[Figure, Axes]:
    # Fixed margins, wide enough for labels of seven digits. Automatic ones would draw every chart twice.
    figure = Figure(figsize=(4.2, 2.1))
    axes = figure.add_axes((0.125, 0.19, 0.84, 0.74))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel("step")
    return figure, axes


def _draw(axes: Axes, line: Series, smooth: bool) -> None:
    width = len(line.values) // 20
    if len(line.values) == 1:
        axes.plot(line.steps, line.values, "o", color=line.color, markersize=3)
    elif not smooth or width < 2:
        axes.plot(_binned(line.steps), _binned(line.values), color=line.color)
    else:
        axes.plot(_binned(line.steps), _binned(line.values), color=line.color, alpha=0.3, linewidth=0.7)
        axes.plot(_binned(line.steps), _binned(_moving_average(line.values, width)), color=line.color)


def _set_log(axes: Axes, ratio: float) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,), numticks=6))
    # The default labels of matplotlib are formulas.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finite(line: Series) -> Series:
    known = np.isfinite(line.values)
    return line._replace(steps=line.steps[known], values=line.values[known])


def _moving_average(values: np.ndarray, width: int) -> np.ndarray:
    # The division makes both ends a mean over the neighbours that exist.
    window = np.ones(2 * (width // 2) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _binned(values: np.ndarray) -> np.ndarray:
    """Means of neighbours, at most _MAX_POINTS of them, so that the page of a long run stays small."""
    if len(values) <= _MAX_POINTS:
        return values
    edges = np.linspace(0, len(values), _MAX_POINTS + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_TEXT, "currentColor")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)
    return re.sub(r' id="\w+_\d+"', "", text)  # ids repeat between charts, and nothing refers to them
