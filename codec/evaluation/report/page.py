"""The report of one run: sounds, scores, charts, advice and settings in one HTML file that loads nothing else."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from codec.atomic_file import atomic_write
from codec.evaluation.metrics import METRICS, Metric
from codec.evaluation.report.advice import problems
from codec.evaluation.report.records import Record, format_duration, read_metrics, to_float
from codec.evaluation.report.samples import read_clips, versions_of
from codec.evaluation.report.scores import metric_rows
from codec.evaluation.report.sections import last_finite, sections, validation_charts
from codec.evaluation.report.status import RunStatus, read_status
from codec.evaluation.report.templates import environment

__all__ = ["write_report"]


def write_report(run_folder: str | Path, running: bool | None = None, metrics: Mapping[str, Metric] = METRICS) -> Path:
    """Writes `report.html` from a run's files, each of which may be missing.

    These are metrics.jsonl, config.yaml, status.json and samples/. A temporary file is written and renamed, so a reader
    never gets an incomplete page.

    Args:
        running: Whether the run continues; None if only status.json knows. The page of a running run reloads itself,
            except while audio plays.
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
    status = read_status(folder, running)
    clips, clip_notes = read_clips(folder / "samples", status.bandwidth_kbps)
    train = [record for record in records if record["split"] == "train"]
    validation = [record for record in records if record["split"] == "validation"]
    groups, scores = metric_rows(validation, metrics) if validation else ([], [])
    config = folder / "config.yaml"
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            name=folder.resolve().name,
            status=status,
            written=time.time(),
            has_index=(folder.parent / "index.html").exists(),
            problems=problems(records),
            facts=_facts(status, records, train),
            groups=groups,
            scores=scores,
            steps=[record["step"] for record in validation],
            score_charts=validation_charts(validation, metrics) if len(validation) > 1 else [],
            sections=sections(train, validation),
            clips=clips,
            versions=versions_of(clips),
            rateable=any(clip.is_rateable for clip in clips),
            notes=notes,
            clip_notes=clip_notes,
            config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else "",
        )
    )
    with atomic_write(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # file names may hold bytes that are not text
    return folder / "report.html"


def _facts(status: RunStatus, records: Sequence[Record], train: Sequence[Record]) -> list[tuple[str, str]]:
    facts = [("experiment", status.experiment)]
    if status.bandwidth_kbps is not None:
        facts.append(("bitrate", f"{status.bandwidth_kbps:g} kbit/s"))
    facts += [("corpus", status.corpus), ("device", status.device)]
    if status.parameters is not None:
        facts.append(("parameters", f"{status.parameters / 1e6:.2f} M"))
    seconds = [to_float(record.get("seconds")) for record in records]
    if np.isfinite(seconds).any():
        facts.append(("training time", format_duration(float(np.nanmax(seconds)))))
    if status.seconds_left is not None and status.state == "running":
        facts.append(("time left", format_duration(status.seconds_left)))
    speeds = [to_float(record.get("audio_seconds_per_second")) for record in train]
    if np.isfinite(speeds).any():
        facts.append(("speed", f"{np.nanmedian(speeds):.1f} \N{MULTIPLICATION SIGN} real time"))
    skipped = last_finite(np.array([to_float(record.get("skipped_steps")) for record in train]))
    if skipped > 0:
        facts.append(("skipped steps", f"{skipped:.0f}"))
    facts.append(("commit", status.commit))
    return [(label, value) for label, value in facts if value]
