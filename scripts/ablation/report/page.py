"""The page of an ablation: what every strategy reached, cost and sounds like, in one HTML file that loads nothing."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.sparse.csgraph import connected_components

from codec.atomic_file import atomic_write
from codec.evaluation import METRICS
from scripts.ablation.report.charts import Multiples, curves
from scripts.ablation.report.runs import (
    Cell,
    Condition,
    conditions_by_weights,
    ordered,
    read_runs,
    write_results,
)
from scripts.ablation.report.samples import listen, output_agreement
from scripts.ablation.report.tables import (
    Table,
    balancing_table,
    clip_metrics,
    cost_table,
    difference_table,
    score_table,
)

__all__ = ["write_ablation_report"]

# Two outputs count as one when they differ by less than 1 % of their amplitude.
_SAME_DB = 40.0
_PLAIN_SETTING = re.compile(r"^(\w+): +([^\s\[{&|>].{0,60})$", re.MULTILINE)


class Agreement(NamedTuple):
    """A heat table of SI-SDR between outputs."""

    names: Sequence[str]
    rows: Sequence[Sequence[tuple[str, float]]]  # text, and heat in [0, 1]
    sentences: Sequence[str]


class Setting(NamedTuple):
    """All that is shown of one setting of the loss weights."""

    weights: str
    scores: Table
    groups: Sequence[Table]
    differences: Table | None
    sentences: Sequence[str]
    agreement: Agreement | None
    multiples: Sequence[Multiples]


def write_ablation_report(folder: Path, reference: str = "weighted_sum") -> Path:
    """Makes results.csv and `ablation.html` from the finished cells of an ablation's folder.

    Each is written beside and renamed, so a reader never sees half of it. Cells without result.json are still to be run
    and are only counted.

    Args:
        folder: which holds runs/ and ablation.yaml, each of which may be missing.
        reference: the strategy that all others are compared with.

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: when the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of an ablation is wanted, got {folder}, which is not a folder")
    cells, unfinished, notes = read_runs(folder)
    settings = conditions_by_weights(cells, reference)
    metrics = ordered((name for cell in cells for name, value in cell.scores.items() if np.isfinite(value)), METRICS)
    write_results(folder / "results.csv", cells, metrics)
    shown = []
    for conditions in settings.values():
        setting, setting_notes = _setting(conditions, metrics, reference)
        shown.append(setting)
        notes += setting_notes
    sounds, sound_notes = listen([condition for conditions in settings.values() for condition in conditions])
    config = folder / "ablation.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.exists() else ""
    page = (
        _environment()
        .get_template("ablation.html.j2")
        .render(
            name=folder.resolve().name,
            facts=[*_facts(cells, unfinished, reference), *_plain_settings(text)],
            written=time.strftime("%Y-%m-%d %H:%M"),
            notes=notes if cells else [*notes, "No cell has finished yet."],
            reference=reference,
            settings=shown,
            balancing=balancing_table(settings),
            cost=cost_table(settings, reference) if cells else None,
            sounds=sounds,
            sound_notes=sound_notes,
            config=text,
        )
    )
    with atomic_write(folder / "ablation.html") as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # names need not be text
    return folder / "ablation.html"


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of strategies, losses and clips are anyone's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _setting(conditions: Sequence[Condition], metrics: Sequence[str], reference: str) -> tuple[Setting, list[str]]:
    of_clips = clip_metrics(conditions)
    cells = [cell for condition in conditions for cell in condition.finished]
    groups = sorted({clip.group for cell in cells for clip in cell.clips.values()})

    def of_group(group: str) -> Table:
        measured = [m for m in of_clips if any(np.isfinite(cell.group_score(group, m)) for cell in cells)]
        return score_table(group, conditions, measured, lambda cell, metric: cell.group_score(group, metric))

    base = next((c for c in conditions if c.strategy == reference and c.loss_ablation is None and c.finished), None)
    differences, sentences = None, [f"No cell of {reference} has finished here, so there is nothing to compare with."]
    if base is not None and len(conditions) > 1:
        differences, sentences = difference_table(
            f"Difference to {reference}, paired by seed and clip", conditions, base, of_clips
        )
    elif base is not None:
        sentences = [f"Nothing but {reference} has finished here, so there is nothing to compare."]
    multiples, notes = curves(conditions, reference)
    setting = Setting(
        weights=conditions[0].weights,
        scores=score_table("all clips", conditions, metrics, lambda cell, metric: cell.scores.get(metric, np.nan)),
        groups=[of_group(group) for group in groups] if len(groups) > 1 else [],
        differences=differences,
        sentences=sentences,
        agreement=_agreement([condition for condition in conditions if condition.finished]),
        multiples=multiples,
    )
    return setting, notes


def _agreement(conditions: Sequence[Condition]) -> Agreement | None:
    decibels = output_agreement(conditions)
    between = decibels[~np.eye(len(decibels), dtype=bool)]
    known = between[np.isfinite(between)]
    if not len(known):
        return None
    low, high = float(known.min()), float(known.max())
    heat = np.nan_to_num(np.clip((decibels - low) / max(high - low, 1e-9), 0, 1))
    rows = [
        [
            (f"{value:.0f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "", float(warmth))
            for value, warmth in row
        ]
        for row in np.stack([decibels, heat], axis=-1)
    ]
    return Agreement([condition.strategy for condition in conditions], rows, _collapses(conditions, decibels))


def _collapses(conditions: Sequence[Condition], decibels: np.ndarray) -> list[str]:
    """Which strategies do the same, and how that compares with training the same strategy again."""
    names = [condition.strategy for condition in conditions]
    same = (decibels >= _SAME_DB) & ~np.eye(len(names), dtype=bool)
    _, labels = connected_components(same, directed=False)
    sets = [[name for name, label in zip(names, labels, strict=True) if label == one] for one in np.unique(labels)]
    together = [", ".join(members) for members in sets if len(members) > 1]
    within = f"within 1 % of each other's amplitude ({_SAME_DB:.0f} dB)"
    if together:
        sentences = [f"Collapsed into one, their outputs {within}: {'; '.join(together)}."]
    else:
        sentences = [f"No two strategies have outputs {within}: none collapses into another."]
    own = np.diag(decibels)
    if not np.isfinite(own).any():
        return [*sentences, "With one seed there is no yardstick for how much two trainings differ anyway."]
    level = float(np.nanmedian(own))
    pairs = np.nonzero(np.triu(decibels > level, 1))
    return [
        *sentences,
        f"The same strategy under two seeds agrees to {level:.1f} dB (median of the diagonal); {len(pairs[0])} of "
        f"{len(names) * (len(names) - 1) // 2} pairs of strategies under one seed agree better than that.",
    ]


def _facts(cells: Sequence[Cell], unfinished: int, reference: str) -> list[tuple[str, str]]:
    failed = sum(cell.failure is not None for cell in cells)
    facts = [("cells finished", str(len(cells) - failed)), ("failed", str(failed))]
    if unfinished:
        facts.append(("not finished", str(unfinished)))
    if cells:
        steps = sorted({cell.steps for cell in cells if cell.failure is None}) or [0]
        facts.append(("steps", f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"))
        facts.append(("seeds", ", ".join(str(seed) for seed in sorted({cell.seed for cell in cells}))))
    return [*facts, ("reference strategy", reference)]


def _plain_settings(text: str) -> list[tuple[str, str]]:
    """The one-line settings of the ablation, such as where its cells start from."""
    shown = {"steps", "seeds", "reference", "name"}
    return [(name.replace("_", " "), value) for name, value in _PLAIN_SETTING.findall(text) if name not in shown]
