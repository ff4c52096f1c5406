"""The finished cells of an ablation's folder, and results.csv, which lists them."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codec.atomic_file import atomic_write

__all__ = [
    "Cell",
    "ClipScores",
    "Condition",
    "conditions_by_weights",
    "number",
    "ordered",
    "read_runs",
    "write_results",
]


class ClipScores(NamedTuple):
    """Of one held-out clip under one cell."""

    group: str
    scores: Mapping[str, float]


class Cell(NamedTuple):
    """One training run of the grid; an unknown number is NaN."""

    folder: Path
    strategy: str
    weights: str  # "default", or which loss weights differ
    weight_factors: Mapping[str, float]
    loss_ablation: str | None  # "single_loss" or "leave_one_out"
    seed: int
    steps: int
    seconds: float
    seconds_per_step: float
    peak_memory_mib: float
    skipped_steps: int
    failure: str | None  # one line when it diverged
    scores: Mapping[str, float]
    clips: Mapping[str, ClipScores]

    def group_score(self, group: str, metric: str) -> float:
        """Mean over the clips of `group` that have one."""
        values = [clip.scores.get(metric, np.nan) for clip in self.clips.values() if clip.group == group]
        known = [value for value in values if np.isfinite(value)]
        return float(np.mean(known)) if known else np.nan


class Condition(NamedTuple):
    """A strategy under one setting of the weights: what seeds are averaged within."""

    strategy: str
    weights: str
    loss_ablation: str | None
    cells: Sequence[Cell]  # in order of seeds, failed ones too

    @property
    def finished(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.failure is None]

    @property
    def failures(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.failure is not None]

    @property
    def label(self) -> str:
        return self.strategy if self.weights == "default" else f"{self.strategy}, {self.weights}"

    def clip_scores(self, metric: str) -> dict[int, dict[str, float]]:
        """Seed to clip to score."""
        return {
            cell.seed: {name: clip.scores.get(metric, np.nan) for name, clip in cell.clips.items()}
            for cell in self.finished
        }


def read_runs(folder: Path) -> tuple[list[Cell], int, list[str]]:
    """Reads every `runs/*/result.json`.

    Returns:
        The cells; how many have no result.json, which are still to be run; a line for each file that cannot be used.
    """
    cells, unfinished, notes = [], 0, []
    folders = sorted(path for path in (folder / "runs").glob("*") if path.is_dir())
    for path in folders:
        if not (path / "result.json").exists():
            unfinished += 1
            continue
        try:
            cells.append(_cell(path, json.loads((path / "result.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"{path.name}/result.json is left out: {type(error).__name__}, {error}.")
    return cells, unfinished, notes


def _cell(folder: Path, entry: Mapping[str, Any]) -> Cell:
    clips = {
        name: ClipScores(str(clip["group"]), {key: number(value) for key, value in clip.items() if key != "group"})
        for name, clip in entry["clips"].items()
    }
    return Cell(
        folder=folder,
        strategy=str(entry["strategy"]),
        weights=str(entry["weights"]),
        weight_factors={name: float(factor) for name, factor in entry["weight_factors"].items()},
        loss_ablation=entry["loss_ablation"],
        seed=int(entry["seed"]),
        steps=int(entry["steps"]),
        seconds=number(entry["seconds"]),
        seconds_per_step=number(entry["seconds_per_step"]),
        peak_memory_mib=number(entry["peak_memory_mib"]),
        skipped_steps=int(entry["skipped_steps"]),
        failure=None if entry["failure"] is None else " ".join(str(entry["failure"]).split()),
        scores={name: number(value) for name, value in entry["scores"].items()},
        clips=clips,
    )


def number(value: Any) -> float:
    """NaN for null, and for whatever else is no number."""
    return float(value) if isinstance(value, int | float) else np.nan


def conditions_by_weights(cells: Sequence[Cell], reference: str) -> dict[str, list[Condition]]:
    """Setting of the weights to its conditions: the reference, the other strategies by name, the loss ablations."""
    members = defaultdict(list)
    factors = {}
    for cell in cells:
        members[cell.weights, cell.loss_ablation, cell.strategy].append(cell)
        factors[cell.weights] = sorted(cell.weight_factors.items())
    settings = sorted(factors, key=lambda weights: (weights != "default", factors[weights], weights))
    result: dict[str, list[Condition]] = {weights: [] for weights in settings}
    for key in sorted(members, key=lambda key: (key[1] or "", key[2] != reference, key[2])):
        weights, loss_ablation, strategy = key
        in_order = sorted(members[key], key=lambda cell: cell.seed)
        result[weights].append(Condition(strategy, weights, loss_ablation, in_order))
    return result


def ordered(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """`names` once each: those of `first` in its order, then the others by name."""
    present = set(names)
    known = [name for name in first if name in present]
    return known + sorted(present - set(known))


def write_results(path: Path, cells: Sequence[Cell], metrics: Sequence[str]) -> None:
    """A row per cell: what it is, what it cost, its scores over all clips and `GROUP/METRIC` over those of a group."""
    clips = [clip for cell in cells for clip in cell.clips.values()]
    measured = {metric for clip in clips for metric in clip.scores}
    by_group = [(group, m) for group in sorted({clip.group for clip in clips}) for m in ordered(measured, metrics)]
    fields = ("strategy", "weights", "loss_ablation", "seed", "failure", "steps", "seconds", "seconds_per_step",
              "peak_memory_mib", "skipped_steps")  # fmt: skip
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", *fields, *metrics, *(f"{group}/{metric}" for group, metric in by_group)])
        for cell in cells:
            values = [getattr(cell, field) for field in fields]
            values += [cell.scores.get(metric, np.nan) for metric in metrics]
            values += [cell.group_score(group, metric) for group, metric in by_group]
            writer.writerow([cell.folder.name, *("" if _absent(value) else value for value in values)])


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not np.isfinite(value))
