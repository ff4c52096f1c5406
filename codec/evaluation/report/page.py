"""The report of one run: scores, audio, charts, advice and settings in one HTML file that loads nothing else."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from codec.atomic_file import atomic_write
from codec.evaluation.metrics import METRICS, Metric
from codec.evaluation.report.advice import problems
from codec.evaluation.report.records import Record, format_duration, read_metrics, to_float
from codec.evaluation.report.samples import read_clips
from codec.evaluation.report.scores import score_table
from codec.evaluation.report.sections import last_finite, sections, validation_charts

__all__ = ["write_report"]


def write_report(run_folder: str | Path, running: bool = False, metrics: Mapping[str, Metric] = METRICS) -> Path:
    """Writes `report.html` from a run's metrics.jsonl, config.yaml and samples/, each of which may be missing.

    A temporary file is written and renamed, so a reader never gets an incomplete page.

    Args:
        running: Whether the run continues. If so, the page reloads itself, except while audio plays.
        metrics: Registry that says how to display the scores.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected the folder of a run, got {folder}, which is not a folder")
    records, notes = read_metrics(folder / "metrics.jsonl")
    clips, clip_notes = read_clips(folder / "samples")
    train = [record for record in records if record["split"] == "train"]
    validation = [record for record in records if record["split"] == "validation"]
    config = folder / "config.yaml"
    page = _template().render(
        name=folder.resolve().name,
        updated=time.strftime("%Y-%m-%d %H:%M"),
        running=running,
        problems=problems(records),
        facts=_facts(records, train),
        scores=score_table(validation, metrics),
        first_step=validation[0]["step"] if validation else None,
        several=len(validation) > 1,
        score_charts=validation_charts(validation, metrics) if len(validation) > 1 else [],
        sections=sections(train, validation),
        clips=clips,
        notes=notes + clip_notes,
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else "",
    )
    with atomic_write(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # file names may hold bytes that are not text
    return folder / "report.html"


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of losses and files, and the configuration, may hold HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _facts(records: Sequence[Record], train: Sequence[Record]) -> list[tuple[str, str]]:
    if not records:
        return []
    facts = [("step", f"{max(record['step'] for record in records):,}")]
    seconds = [to_float(record.get("seconds")) for record in records]
    if np.isfinite(seconds).any():
        facts.append(("training time", format_duration(float(np.nanmax(seconds)))))
    speeds = [to_float(record.get("audio_seconds_per_second")) for record in train]
    if np.isfinite(speeds).any():
        facts.append(("seconds of audio per second", f"{np.nanmedian(speeds):.1f}"))
    skipped = last_finite(np.array([to_float(record.get("skipped_steps")) for record in train]))
    if skipped > 0:
        facts.append(("skipped steps", f"{skipped:.0f}"))
    return facts
