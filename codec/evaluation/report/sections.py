"""The sections of a report: charts of losses, gradients, codebooks and optimization, each with its advice."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codec.evaluation.metrics import METRICS, Metric, describe
from codec.evaluation.report.advice import loss_advice
from codec.evaluation.report.charts import Chart, Series, area_chart, bar_chart, color_ramp, colors, line_chart
from codec.evaluation.report.records import Record, keys_with_prefix, to_float
from codec.evaluation.report.scores import score_keys

__all__ = ["Section", "last_finite", "sections", "validation_charts"]

_MAX_LEGEND_ENTRIES = 8


class Section(NamedTuple):
    """A heading with advice and charts below it."""

    title: str
    advice: Sequence[str]
    charts: Sequence[Chart]


def sections(train: Sequence[Record], validation: Sequence[Record]) -> list[Section]:
    """All sections that have something to draw."""
    every = [
        Section("Training losses", [], _loss_charts(train)),
        Section("Balance of the losses", loss_advice(train), _balance_charts(train)),
        Section("Codebooks", [], _codebook_charts(train, validation)),
        Section("Optimization", [], _optimization_charts(train)),
    ]
    return [section for section in every if section.charts]


def validation_charts(validation: Sequence[Record], metrics: Mapping[str, Metric] = METRICS) -> list[Chart]:
    """A chart per metric, with a line per group of clips."""
    keys = score_keys(validation)
    charts = []
    for name in dict.fromkeys(key.rpartition("/")[2] for key in keys):
        of_groups = {key.removesuffix(f"/{name}"): key for key in keys if key.endswith(f"/{name}")}
        metric = describe(name, metrics)
        charts += _lines(f"{metric.heading} {' ↑↓'[metric.sign]}".rstrip(), _series(validation, of_groups))
    return charts


def _loss_charts(train: Sequence[Record]) -> list[Chart]:
    losses = _by_name(train, "loss/") | {"commitment": "commitment"}
    charts = []
    for name, key in losses.items():
        charts += _lines(name, _series(train, {name: key}), smooth=True)
    discriminator = {name.replace("_", " "): key for name, key in _by_name(train, "discriminator/").items()}
    return charts + _lines("discriminator", _series(train, discriminator), smooth=True)


def _balance_charts(train: Sequence[Record]) -> list[Chart]:
    charts = []
    shares = _series(train, _by_name(train, "share/"))
    area = area_chart("share of the weighted gradient norms", shares)
    charts += [] if area is None else [area]
    projections = _series(train, _by_name(train, "projection/"))
    charts += _lines("projection on the balanced gradient, relative to its norm", projections, log=False, smooth=True)
    weights, norms = _series(train, _by_name(train, "weight/")), _series(train, _by_name(train, "norm/"))
    charts += _lines("weight after balancing", weights, smooth=True)
    charts += _lines("gradient norm at the decoder output", norms, smooth=True)
    pairs = {name.replace("/", " and "): key for name, key in _by_name(train, "cosine/").items()}
    cosines = _series(train, pairs)
    charts += _lines("cosine of two gradients", cosines, log=False, smooth=True, limits=(-1.05, 1.05))
    conflicts = _series(train, {"conflicts": "conflicts"})
    charts += _lines("fraction of loss pairs with a negative cosine", conflicts, False, True, (0.0, 1.05))
    ratio = _series(train, {"ratio": "commitment_ratio"})
    return charts + _lines("norm ratio of commitment and balanced gradient at the latent", ratio, smooth=True)


def _codebook_charts(train: Sequence[Record], validation: Sequence[Record]) -> list[Chart]:
    records, split = (validation, "validation") if keys_with_prefix(validation, "codebook/") else (train, "training")
    charts = []
    for quantity, title, limits in (
        ("perplexity", "perplexity", None),
        ("dead_fraction", "fraction of dead codes", (0.0, 1.0)),
    ):
        parts = [key.split("/") for key in keys_with_prefix(records, "codebook/") if key.endswith(f"/{quantity}")]
        numbers = sorted({int(part[1]) for part in parts if len(part) == 3 and part[1].isdecimal()})
        keys = {f"codebook {k + 1}": f"codebook/{k}/{quantity}" for k in numbers}
        ramp = color_ramp(len(keys))
        lines = [line._replace(color=color) for line, color in zip(_series(records, keys), ramp, strict=True)]
        latest = np.array([last_finite(line.values) for line in lines])
        bars = bar_chart(f"{title} of each codebook, latest {split}", latest, colors(1)[0], limits and limits[1])
        charts += [] if bars is None else [bars]
        for chart in _lines(f"{title} of each codebook, {split}", lines, log=False, limits=limits):
            # With many codebooks, the ends and the middle of the colour ramp are enough.
            legend = chart.legend
            if len(numbers) > _MAX_LEGEND_ENTRIES:
                legend = [legend[i] for i in (0, len(numbers) // 2, -1)]
            charts.append(chart._replace(legend=legend))
    return charts


def _optimization_charts(train: Sequence[Record]) -> list[Chart]:
    charts = []
    for key, title in {
        "lr": "learning rate",
        "gradient_norm": "gradient norm of the codec's parameters",
        "balanced_norm": "norm of the balanced gradient",
        "audio_seconds_per_second": "seconds of audio per second",
        "data_wait_fraction": "fraction of time spent waiting for data",
        "num_codebooks": "codebooks in use",
    }.items():
        log = None if key.endswith("_norm") else False
        charts += _lines(title, _series(train, {title: key}), log=log, smooth=key != "lr")
    skipped = _series(train, {"skipped steps": "skipped_steps"})
    return charts + (_lines("skipped steps", skipped) if skipped[0].values.any() else [])


def _lines(
    title: str,
    series: Sequence[Series],
    log: bool | None = None,
    smooth: bool = False,
    limits: tuple[float, float] | None = None,
) -> list[Chart]:
    """A list with the chart; empty when there is nothing to draw."""
    chart = line_chart(title, series, log=log, smooth=smooth, limits=limits)
    return [] if chart is None else [chart]


def _series(records: Sequence[Record], keys: Mapping[str, str]) -> list[Series]:
    """One line per name, over the records that hold any of the keys."""
    rows = [record for record in records if any(key in record for key in keys.values())]
    steps = np.array([row["step"] for row in rows], dtype=np.float64)
    return [
        Series(name, steps, np.array([to_float(row.get(key)) for row in rows]), color)
        for (name, key), color in zip(keys.items(), colors(len(keys)), strict=True)
    ]


def _by_name(records: Sequence[Record], prefix: str) -> dict[str, str]:
    """Key of each name behind `prefix`."""
    return {key.removeprefix(prefix): key for key in keys_with_prefix(records, prefix)}


def last_finite(values: np.ndarray) -> float:
    """The last finite value; NaN without one. Shape: values [N]."""
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")
