"""Reads the finished runs of an ablation, groups them by condition, and writes results.csv."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codec.atomic_file import atomic_write

__all__ = ["ClipScores", "Condition", "Run", "conditions_by_weights", "number", "ordered", "read_runs", "write_results"]


class ClipScores(NamedTuple):
    """Scores of one held-out clip in one run."""

    group: str
    scores: Mapping[str, float]


class Run(NamedTuple):
    """One finished or failed training run; unknown numbers are NaN."""

    folder: Path
    strategy: str
    weights: str  # "default", or the loss weights that differ
    weight_factors: Mapping[str, float]
    loss_ablation: str | None  # "single_loss", "leave_one_out" or None
    override: str | None  # setting=value from the search, if there was one
    seed: int
    steps: int
    seconds: float
    seconds_per_step: float
    peak_memory_mib: float
    skipped_steps: int
    failure: str | None  # one line if the run diverged
    scores: Mapping[str, float]  # GROUP/METRIC: mean over the clips of a group; METRIC for metrics of codes
    clips: Mapping[str, ClipScores]

    def score(self, name: str) -> float:
        """A score by its name in `scores`; NaN if it is unknown."""
        return self.scores.get(name, np.nan)


class Condition(NamedTuple):
    """A strategy with one setting of the loss weights. Its runs differ only in the seed."""

    strategy: str
    weights: str
    loss_ablation: str | None
    runs: Sequence[Run]  # by seed, failed runs included

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.failure is None]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.failure is not None]

    @property
    def label(self) -> str:
        return self.strategy if self.weights == "default" else f"{self.strategy}, {self.weights}"

    def is_strategy(self, name: str) -> bool:
        """Whether this is the strategy `name`, not a loss ablation."""
        return self.strategy == name and self.loss_ablation is None

    def values(self, score: str) -> np.ndarray:
        """A score of each finished run. Shape: -> [R]."""
        return np.array([run.score(score) for run in self.finished])

    def clip_scores(self, score: str) -> dict[int, dict[str, float]]:
        """Seed -> clip -> its score, for the clips of the group in GROUP/METRIC."""
        group, _, metric = score.rpartition("/")
        return {
            run.seed: {name: clip.scores.get(metric, np.nan) for name, clip in run.clips.items() if clip.group == group}
            for run in self.finished
        }


def read_runs(folder: Path, kind: str = "runs") -> tuple[list[Run], int, list[str]]:
    """Reads every `runs/*/result.json`, or those of the search or of the checkpoint that the runs start from.

    Args:
        folder: Of the ablation.
        kind: runs, search or start.

    Returns:
        The runs, the number of run folders without result.json, and a note for each file that cannot be read.
    """
    runs, unfinished, notes = [], 0, []
    for path in sorted(path for path in (folder / kind).glob("*") if path.is_dir()):
        if not (path / "result.json").exists():
            unfinished += 1
            continue
        try:
            runs.append(_run(path, json.loads((path / "result.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"{path.name}/result.json cannot be read ({type(error).__name__}: {error}) and is left out.")
    return runs, unfinished, notes


def _run(folder: Path, result: Mapping[str, Any]) -> Run:
    clips = {
        name: ClipScores(str(clip["group"]), {key: number(value) for key, value in clip.items() if key != "group"})
        for name, clip in result["clips"].items()
    }
    return Run(
        folder=folder,
        strategy=str(result["strategy"]),
        weights=str(result["weights"]),
        weight_factors={name: float(factor) for name, factor in result["weight_factors"].items()},
        loss_ablation=result["loss_ablation"],
        override=result["override"],
        seed=int(result["seed"]),
        steps=int(result["steps"]),
        seconds=number(result["seconds"]),
        seconds_per_step=number(result["seconds_per_step"]),
        peak_memory_mib=number(result["peak_memory_mib"]),
        skipped_steps=int(result["skipped_steps"]),
        failure=None if result["failure"] is None else " ".join(str(result["failure"]).split()),
        scores=_group_means(clips) | {name: number(value) for name, value in result["scores"].items()},
        clips=clips,
    )


def _group_means(clips: Mapping[str, ClipScores]) -> dict[str, float]:
    """GROUP/METRIC -> mean over the clips of the group with a finite score; left out if there is none."""
    values: dict[str, list[float]] = defaultdict(list)
    for clip in clips.values():
        for metric, value in clip.scores.items():
            if np.isfinite(value):
                values[f"{clip.group}/{metric}"].append(value)
    return {key: float(np.mean(each)) for key, each in values.items()}


def number(value: Any) -> float:
    """`value` as a float; NaN for null and anything else that is not a number."""
    return float(value) if isinstance(value, int | float) else np.nan


def conditions_by_weights(runs: Sequence[Run], baseline: str) -> dict[str, list[Condition]]:
    """Weight setting -> its conditions: the baseline, the other strategies by name, then the loss ablations."""
    members = defaultdict(list)
    factors = {}
    for run in runs:
        members[run.weights, run.loss_ablation, run.strategy].append(run)
        factors[run.weights] = sorted(run.weight_factors.items())
    settings = sorted(factors, key=lambda weights: (weights != "default", factors[weights], weights))
    result: dict[str, list[Condition]] = {weights: [] for weights in settings}
    for key in sorted(members, key=lambda key: (key[1] or "", key[2] != baseline, key[2])):
        weights, loss_ablation, strategy = key
        by_seed = sorted(members[key], key=lambda run: run.seed)
        result[weights].append(Condition(strategy, weights, loss_ablation, by_seed))
    return result


def ordered(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """`names` without repetitions: those in `first` in its order, then the others by name."""
    present = set(names)
    known = [name for name in first if name in present]
    return known + sorted(present - set(known))


def write_results(path: Path, runs: Sequence[Run], scores: Sequence[str]) -> None:
    """Writes a CSV row per run: its settings, its cost, and its scores by name."""
    fields = ("strategy", "weights", "loss_ablation", "override", "seed", "failure", "steps", "seconds",
              "seconds_per_step", "peak_memory_mib", "skipped_steps")  # fmt: skip
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *fields, *scores])
        for run in runs:
            values = [getattr(run, field) for field in fields]
            values += [run.score(score) for score in scores]
            writer.writerow([run.folder.name, *("" if _is_unknown(value) else value for value in values)])


def _is_unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not np.isfinite(value))
