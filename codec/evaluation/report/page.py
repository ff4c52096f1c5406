"""The page of one run: its scores, sounds, curves and settings in a single HTML file that loads nothing else."""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from codec.evaluation.metrics import describe
from codec.evaluation.report.advice import loss_advice, problems
from codec.evaluation.report.charts import Series, area_chart, bar_chart, color_ramp, colors, line_chart
from codec.evaluation.report.samples import read_clips
from codec.evaluation.report.scores import duration, number, score_keys, score_table

__all__ = ["read_metrics", "write_report"]

Record = Mapping[str, Any]


class Chart(NamedTuple):
    """A drawing with its caption; the legend is HTML, where names are escaped and wrap."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]]  # (name, colour)


class Section(NamedTuple):
    """A heading with what is below it."""

    title: str
    sentences: Sequence[str]
    charts: Sequence[Chart]


def write_report(run_folder: str | Path, running: bool = False) -> Path:
    """Makes `report.html` from a run's metrics.jsonl, config.yaml and samples/, each of which may be missing.

    The file is written beside and renamed, so a reader never sees half of it.

    Args:
        running: Whether the run goes on: the page then renews itself, though not while something plays.

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: when the folder does not exist.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of a run is wanted, got {folder}, which is not a folder")
    records, notes = read_metrics(folder / "metrics.jsonl")
    clips, clip_notes = read_clips(folder / "samples")
    train = [record for record in records if record["split"] == "train"]
    validation = [record for record in records if record["split"] == "validation"]
    config = folder / "config.yaml"
    page = _template().render(
        name=folder.resolve().name,
        written=time.strftime("%Y-%m-%d %H:%M"),
        running=running,
        problems=problems(records),
        facts=_facts(records, train),
        scores=score_table(validation),
        first_step=validation[0]["step"] if validation else None,
        several=len(validation) > 1,
        score_charts=_validation_charts(validation) if len(validation) > 1 else [],
        sections=_sections(train, validation),
        clips=clips,
        notes=notes + clip_notes,
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else "",
    )
    beside = folder / "report.html.part"
    beside.write_text(page, encoding="utf-8", errors="replace")  # names need not be text
    os.replace(beside, folder / "report.html")
    return folder / "report.html"


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # loss names, file names and the configuration are anyone's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def read_metrics(path: Path) -> tuple[list[Record], list[str]]:
    """Reads a metrics.jsonl, which a running or a killed process may have left half-written.

    Returns:
        The records that have a split and a step, and a line for what had to be left out.
    """
    if not path.exists():
        return [], ["There are no metrics yet."]
    records, lost = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            whole = isinstance(record["split"], str) and isinstance(record["step"], int)
        except (json.JSONDecodeError, KeyError, TypeError):
            whole = False
        if whole:
            records.append(record)
        else:
            lost += 1
    notes = [f"Lines of metrics.jsonl left out because they are not whole: {lost}."] if lost else []
    return records, notes if records or lost else ["There are no metrics yet."]


def _sections(train: Sequence[Record], validation: Sequence[Record]) -> list[Section]:
    sections = [
        Section("Training losses", [], _loss_charts(train)),
        Section("Balance of the losses", loss_advice(train), _balance_charts(train)),
        Section("Codebooks", [], _codebook_charts(train, validation)),
        Section("Optimisation", [], _optimisation_charts(train)),
    ]
    return [section for section in sections if section.charts]


def _validation_charts(validation: Sequence[Record]) -> list[Chart]:
    keys = score_keys(validation)
    charts = []
    for metric in _unique(key.rpartition("/")[2] for key in keys):
        named = {key.removesuffix(f"/{metric}"): key for key in keys if key.endswith(f"/{metric}")}
        charts += _lines(describe(metric).heading, _series(validation, named))
    return charts


def _loss_charts(train: Sequence[Record]) -> list[Chart]:
    losses = _named(train, "loss/") | {"commitment": "commitment"}
    charts = []
    for name, key in losses.items():
        charts += _lines(name, _series(train, {name: key}), smooth=True)
    return charts + _lines("discriminator", _series(train, _named(train, "discriminator/")), smooth=True)


def _balance_charts(train: Sequence[Record]) -> list[Chart]:
    charts = []
    shares = _series(train, _named(train, "share/"))
    area = area_chart(shares)
    if area is not None:
        charts.append(Chart("share of the weighted gradients' length", Markup(area), _legend(shares)))
    projections = _series(train, _named(train, "projection/"))
    charts += _lines("projection on the result, as a share of its length", projections, log=False, smooth=True)
    weights, norms = _series(train, _named(train, "weight/")), _series(train, _named(train, "norm/"))
    charts += _lines("weight after balancing", weights, smooth=True)
    charts += _lines("gradient norm at the decoder output", norms, smooth=True)
    pairs = {name.replace("/", " and "): key for name, key in _named(train, "cosine/").items()}
    cosines = _series(train, pairs)
    charts += _lines("cosine between gradients", cosines, log=False, smooth=True, limits=(-1.05, 1.05))
    conflicts = _series(train, {"conflicts": "conflicts"})
    charts += _lines("share of pairs with a negative cosine", conflicts, log=False, smooth=True, limits=(0.0, 1.05))
    ratio = _series(train, {"ratio": "commitment_ratio"})
    return charts + _lines("commitment gradient over balanced gradient, at the latent", ratio, smooth=True)


def _codebook_charts(train: Sequence[Record], validation: Sequence[Record]) -> list[Chart]:
    held_out = any(key.startswith("codebook/") for record in validation for key in record)
    records, where = (validation, "held out") if held_out else (train, "training")
    charts = []
    for suffix, title, limits in (
        ("perplexity", "perplexity", None),
        ("dead_share", "share of dead codes", (0.0, 1.0)),
    ):
        parts = [key.split("/") for key in _keys(records, "codebook/") if key.endswith(f"/{suffix}")]
        books = sorted({int(part[1]) for part in parts if len(part) == 3 and part[1].isdecimal()})
        named = {f"book {book + 1}": f"codebook/{book}/{suffix}" for book in books}
        ramp = color_ramp(len(named))
        lines = [line._replace(color=c) for line, c in zip(_series(records, named), ramp, strict=True)]
        newest = np.array([_last_finite(line.values) for line in lines])
        bars = bar_chart(newest, ramp, limits and limits[1])
        if bars is not None:
            charts.append(Chart(f"{title} of each book now, {where}", Markup(bars), []))
        for chart in _lines(f"{title} over time, {where}", lines, log=False, limits=limits):
            # Of many books the ends and the middle of the colour ramp say enough.
            ends = chart.legend if len(books) <= 8 else [chart.legend[i] for i in (0, len(books) // 2, -1)]
            charts.append(chart._replace(legend=ends))
    return charts


def _optimisation_charts(train: Sequence[Record]) -> list[Chart]:
    charts = []
    for key, title in {
        "lr": "learning rate",
        "gradient_norm": "gradient norm of the codec's weights",
        "balanced_norm": "norm of the balanced gradient",
        "audio_seconds_per_second": "audio seconds per second",
        "data_wait_fraction": "share of the time spent waiting for data",
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
    """The chart in a list, which is empty when there is nothing to draw."""
    svg = line_chart(series, log=log, smooth=smooth, limits=limits)
    return [] if svg is None else [Chart(title, Markup(svg), _legend(series))]


def _legend(series: Sequence[Series]) -> list[tuple[str, str]]:
    return [(line.name, line.color) for line in series] if len(series) > 1 else []


def _series(records: Sequence[Record], named: Mapping[str, str]) -> list[Series]:
    """One line for each name: key, over the records that hold any of the keys."""
    rows = [record for record in records if any(key in record for key in named.values())]
    steps = np.array([row["step"] for row in rows], dtype=np.float64)
    return [
        Series(name, steps, np.array([number(row.get(key)) for row in rows]), color)
        for (name, key), color in zip(named.items(), colors(len(named)), strict=True)
    ]


def _facts(records: Sequence[Record], train: Sequence[Record]) -> list[tuple[str, str]]:
    if not records:
        return []
    facts = [("step", f"{max(record['step'] for record in records):,}")]
    seconds = [number(record.get("seconds")) for record in records]
    if np.isfinite(seconds).any():
        facts.append(("training time", duration(float(np.nanmax(seconds)))))
    speeds = [number(record.get("audio_seconds_per_second")) for record in train]
    if np.isfinite(speeds).any():
        facts.append(("audio seconds per second", f"{np.nanmedian(speeds):.1f}"))
    skipped = _last_finite(np.array([number(record.get("skipped_steps")) for record in train]))
    if skipped > 0:
        facts.append(("skipped steps", f"{skipped:.0f}"))
    return facts


def _named(records: Sequence[Record], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): key for key in _keys(records, prefix)}


def _keys(records: Sequence[Record], prefix: str) -> list[str]:
    return _unique(key for record in records for key in record if key.startswith(prefix))


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _last_finite(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")
