"""The page of an ablation: scores, costs, curves and samples of all strategies in one self-contained HTML file."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from codec.atomic_file import atomic_write
from codec.evaluation import METRICS, Metric
from codec.evaluation.report.templates import environment
from scripts.ablation.report.charts import ChartGroup, chart_groups
from scripts.ablation.report.markdown import markdown
from scripts.ablation.report.runs import (
    Condition,
    Run,
    conditions_by_weights,
    read_runs,
    write_results,
)
from scripts.ablation.report.samples import compare_clips, output_similarity
from scripts.ablation.report.search import search_table
from scripts.ablation.report.shares import share_table
from scripts.ablation.report.tables import (
    Table,
    cost_table,
    described,
    difference_table,
    score_table,
    weights_table,
)
from scripts.ablation.report.verdict import Scatter, quality_scatter, verdict

__all__ = ["write_ablation_report"]

_SAME_DB = 40.0  # outputs that differ by less than 1 % of their amplitude count as equal
_NOT_SHOWN = ("hydra", "job", "runs_folder")


class Similarity(NamedTuple):
    """A heat map of the SI-SDR between outputs."""

    names: Sequence[str]
    rows: Sequence[Sequence[tuple[str, float]]]  # text, and heat in [0, 1]
    sentences: Sequence[str]


class WeightSetting(NamedTuple):
    """Everything that the page shows for one setting of the loss weights."""

    weights: str
    verdict: Sequence[str]
    scatters: Mapping[str, Scatter]  # by group of clips
    scores: Sequence[Table]  # one for each group
    differences: Sequence[Table]
    sentences: Sequence[str]
    shares: Table | None
    similarity: Similarity | None
    charts: Sequence[ChartGroup]


def write_ablation_report(
    folder: Path,
    baseline: str = "weighted_sum",
    metrics: Mapping[str, Metric] = METRICS,
    search_scores: Sequence[str] | None = None,
) -> Path:
    """Writes `ablation.html`, its tables as `ablation.md`, and results.csv from the finished runs of an ablation.

    The files are replaced atomically. Runs without result.json are only counted.

    Args:
        folder: Holds runs/ and ablation.yaml; either may be missing.
        baseline: The strategy that all others are compared with.
        metrics: Labels, digits and directions of the scores by name; their order is that of the columns.
        search_scores: The scores whose mean rank decided the search; None for all.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: `folder` does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: expected the folder of an ablation")
    runs, unfinished, notes = read_runs(folder)
    settings = conditions_by_weights(runs, baseline)
    measured = described((name for run in runs for name, value in run.scores.items() if np.isfinite(value)), metrics)
    start, searched = (read_runs(folder, kind)[0] for kind in ("start", "search"))
    _write_results(folder, [*start, *runs], searched, measured)
    shown = []
    for conditions in settings.values():
        setting, setting_notes = _weight_setting(conditions, measured, baseline, start)
        shown.append(setting)
        notes += setting_notes
    clips, clip_notes = compare_clips([condition for conditions in settings.values() for condition in conditions])
    config = _applied(folder / "ablation.yaml")
    weights = weights_table(settings, metrics)
    search = search_table(searched, search_scores, metrics)
    cost = cost_table(settings, baseline) if runs else None
    page = (
        environment(Path(__file__).parent)
        .get_template("ablation.html.j2")
        .render(
            name=folder.resolve().name,
            facts=[*_facts(runs, unfinished, baseline), *_one_line_settings(config)],
            written=time.time(),
            notes=notes if runs else [*notes, "No run has finished yet."],
            baseline=baseline,
            settings=shown,
            weights=weights,
            search=search,
            cost=cost,
            clips=clips,
            versions=list(dict.fromkeys((v.key, v.label) for clip in clips for v in clip.versions)),
            clip_notes=clip_notes,
            config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else "",
        )
    )
    tables = [table for setting in shown for table in (*setting.scores, *setting.differences, setting.shares)]
    _write(folder / "ablation.html", page)
    _write(folder / "ablation.md", markdown(each for each in (*tables, weights, search, cost) if each is not None))
    return folder / "ablation.html"


def _write_results(
    folder: Path, runs: Sequence[Run], searched: Sequence[Run], measured: Mapping[str, Sequence[Metric]]
) -> None:
    """Writes results.csv and, if there was a search, search.csv."""
    columns = [metric.name for group in measured.values() for metric in group]
    write_results(folder / "results.csv", runs, columns)
    if searched:
        write_results(folder / "search.csv", searched, columns)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")  # file names need not be valid text


def _weight_setting(
    conditions: Sequence[Condition],
    measured: Mapping[str, Sequence[Metric]],
    baseline: str,
    start: Sequence[Run],
) -> tuple[WeightSetting, list[str]]:
    groups = {group: metrics for group, metrics in measured.items() if group}
    base = next((c for c in conditions if c.is_strategy(baseline) and c.finished), None)
    differences: dict[str, tuple[Sequence[Metric], Table]] = {}
    if base is None:
        sentences = [f"No run of {baseline} has finished, so there is nothing to compare with."]
    elif len(conditions) == 1:
        sentences = [f"Only {baseline} has finished, so there is nothing to compare."]
    else:
        sentences = []
        for group, metrics in groups.items():
            caption = f"{group}: difference to {baseline}, paired by seed and clip"
            table, found = difference_table(caption, conditions, base, metrics)
            differences[group] = (metrics, table)
            sentences += [f"{group}: {sentence}" for sentence in found]
    charts, notes = chart_groups(conditions, baseline)
    seeds = max((len(condition.finished) for condition in conditions), default=0)
    scatters = {group: quality_scatter(conditions, baseline, metrics) for group, metrics in groups.items()}
    setting = WeightSetting(
        weights=conditions[0].weights,
        verdict=verdict(differences, baseline, seeds),
        scatters={group: scatter for group, scatter in scatters.items() if scatter is not None},
        scores=[
            score_table(group or "codes of all clips", conditions, metrics, start)
            for group, metrics in (measured or {"": []}).items()
        ],
        differences=[table for _, table in differences.values()],
        sentences=sentences,
        shares=share_table(f"share of the gradient, weights: {conditions[0].weights}", conditions),
        similarity=_similarity([condition for condition in conditions if condition.finished]),
        charts=charts,
    )
    return setting, notes


def _similarity(conditions: Sequence[Condition]) -> Similarity | None:
    decibels = output_similarity(conditions)
    between = decibels[~np.eye(len(decibels), dtype=bool)]
    finite = between[np.isfinite(between)]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    heat = np.nan_to_num(np.clip((decibels - low) / max(high - low, 1e-9), 0, 1))
    rows = [
        [
            (f"{value:.0f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "", float(warmth))
            for value, warmth in row
        ]
        for row in np.stack([decibels, heat], axis=-1)
    ]
    return Similarity(
        [condition.strategy for condition in conditions], rows, _similarity_sentences(conditions, decibels)
    )


def _similarity_sentences(conditions: Sequence[Condition], decibels: np.ndarray) -> list[str]:
    """Which strategies have equal outputs, and how that compares with another seed of the same strategy."""
    names = [condition.strategy for condition in conditions]
    linked = (decibels >= _SAME_DB) | np.eye(len(names), dtype=bool)
    for _ in names:  # until each strategy is linked to all that are linked to one of its own
        linked = linked @ linked
    labels = linked.argmax(1)  # the first strategy of each set
    sets = [[name for name, label in zip(names, labels, strict=True) if label == one] for one in np.unique(labels)]
    equal = [", ".join(members) for members in sets if len(members) > 1]
    within = f"within 1 % of the amplitude ({_SAME_DB:.0f} dB)"
    if equal:
        sentences = [f"These strategies have equal outputs, {within}: {'; '.join(equal)}."]
    else:
        sentences = [f"No two strategies have equal outputs, {within}."]
    own = np.diag(decibels)
    if not np.isfinite(own).any():
        return [*sentences, "A second seed would show how much two runs of the same strategy differ."]
    level = float(np.nanmedian(own))
    pairs = np.nonzero(np.triu(decibels > level, 1))
    return [
        *sentences,
        f"Two seeds of the same strategy agree to {level:.1f} dB (median of the diagonal). With the same seed, "
        f"{len(pairs[0])} of {len(names) * (len(names) - 1) // 2} pairs of strategies agree better than that.",
    ]


def _facts(runs: Sequence[Run], unfinished: int, baseline: str) -> list[tuple[str, str]]:
    failed = sum(run.failure is not None for run in runs)
    facts = [("finished runs", str(len(runs) - failed)), ("failed", str(failed))]
    if unfinished:
        facts.append(("unfinished", str(unfinished)))
    if runs:
        steps = sorted({run.steps for run in runs if run.failure is None}) or [0]
        facts.append(("steps", f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"))
        facts.append(("seeds", ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))))
    return [*facts, ("baseline", baseline)]


def _applied(config: Path) -> dict[str, Any]:
    """The settings of an ablation.yaml that applied to its runs: none that are empty or belong to the other start."""
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8", errors="replace")) if config.exists() else None
    except yaml.YAMLError:
        return {}
    if not isinstance(settings, dict):
        return {}
    start = settings.get("start")
    unused = {*_NOT_SHOWN, *(() if start == "from_base" else ("base", "base_overrides"))}
    shown = {key: value for key, value in settings.items() if key not in unused and value not in (None, [], {}, "")}
    if isinstance(shown.get("experiments"), dict):
        used = ("base", "from_base") if start == "from_base" else (start,)
        shown["experiments"] = {key: value for key, value in shown["experiments"].items() if key in used}
    return shown


def _one_line_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings that fit one line, such as `start`; those that `_facts` has are left out."""
    hidden = {"max_steps", "steps", "seeds", "baseline", "name"}
    scalars = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    return [(str(key).replace("_", " "), str(value)) for key, value in scalars.items() if key not in hidden]
