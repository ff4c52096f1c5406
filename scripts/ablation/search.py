"""The search before the grid: every strategy tries the same values of one setting, and the grid uses its best one."""

from collections.abc import Mapping, Sequence

import numpy as np
from omegaconf import DictConfig, ListConfig
from scipy.stats import rankdata

from codec.evaluation import METRICS, Metric, describe, select_metrics
from codec.evaluation.report.records import UNKNOWN
from scripts.ablation.grid import GridRun, ablation_folder, strategies
from scripts.ablation.report.runs import Run, read_runs
from scripts.ablation.report.tables import Entry, Row, Table

__all__ = ["best_overrides", "check_search", "mean_ranks", "search_runs", "search_table"]


def check_search(cfg: DictConfig) -> None:
    """Checks `search` of configs/ablate.yaml.

    Raises:
        ValueError: A setting is invalid; the message names it with its expected and actual value.
    """
    search = cfg.search
    if search.setting is None:
        return
    if not isinstance(search.candidates, ListConfig) or len(search.candidates) < 2:
        raise ValueError(f"search.candidates must be a list with at least two values, got {search.candidates}")
    if not isinstance(search.seed, int) or search.seed < 0 or search.seed in cfg.seeds:
        raise ValueError(f"search.seed must be an integer of at least 0 that is not one of seeds, got {search.seed!r}")
    if not isinstance(search.max_steps, int) or search.max_steps < 1:
        raise ValueError(f"search.max_steps must be an integer of at least 1, got {search.max_steps!r}")
    metrics = {**METRICS, **select_metrics(cfg.metrics)}
    for score in search.scores or ():
        name = str(score).rpartition("/")[2]
        if name not in cfg.metrics or not describe(name, metrics).sign:
            raise ValueError(
                f"search.scores must be GROUP/METRIC with a METRIC of metrics that has a better direction, got {score}"
            )


def search_runs(cfg: DictConfig) -> dict[str, GridRun]:
    """The runs of the search by name, value by value; empty without a search."""
    if cfg.search.setting is None:
        return {}
    overrides = [f"{cfg.search.setting}={value}" for value in cfg.search.candidates]
    runs = [
        GridRun(strategy, balancer, cfg.search.seed, override=override, is_search=True)
        for override in overrides
        for strategy, balancer in strategies(cfg).items()
    ]
    return {run.name: run for run in runs}


def best_overrides(cfg: DictConfig) -> dict[str, str]:
    """Strategy -> override with its best value. A strategy is left out until all its runs of the search are finished.

    If every run of a strategy failed, this is the first value.
    """
    expected = {run.name: run.strategy for run in search_runs(cfg).values()}
    if not expected:
        return {}
    metrics = {**METRICS, **select_metrics(cfg.metrics)}
    finished = {run.folder.name: run for run in read_runs(ablation_folder(cfg), "search")[0]}
    best = {}
    for strategy in dict.fromkeys(expected.values()):
        names = [name for name, of_strategy in expected.items() if of_strategy == strategy]
        if all(name in finished for name in names):
            runs = [finished[name] for name in names]
            best[strategy] = str(runs[int(np.argmin(mean_ranks(runs, cfg.search.scores, metrics)))].override)
    return best


def mean_ranks(runs: Sequence[Run], scores: Sequence[str] | None, metrics: Mapping[str, Metric]) -> np.ndarray:
    """The rank of each run among `runs`, averaged over the scores: 1 is best, and ties share a rank.

    Ranks need no common unit, so DistillMOS, decibels and distances can be put together. A failed run is last.

    Args:
        scores: GROUP/METRIC; None for all that have a better direction.
        metrics: Directions of the metrics by name.

    Shape: [N].

    Raises:
        ValueError: No run has one of `scores`.
    """
    measured = list(dict.fromkeys(score for run in runs for score in run.scores))
    signs = {score: describe(score.rpartition("/")[2], metrics).sign for score in scores or measured}
    if missing := [score for score in signs if scores and score not in measured and measured]:
        raise ValueError(f"search.scores: {missing[0]} was not measured, expected one of {', '.join(measured)}")
    used = [score for score, sign in signs.items() if sign and score in measured]
    costs = [[-signs[score] * run.scores.get(score, np.nan) for run in runs] for score in used]
    if not costs:
        return np.ones(len(runs))
    ranks = rankdata(np.nan_to_num(np.array(costs), nan=np.inf), axis=1)
    return np.asarray(ranks.mean(axis=0))


def search_table(runs: Sequence[Run], scores: Sequence[str] | None, metrics: Mapping[str, Metric]) -> Table | None:
    """A row per strategy with the mean rank of every candidate; None without a search."""
    candidates = list(dict.fromkeys(str(run.override) for run in runs))
    rows = []
    for strategy in sorted({run.strategy for run in runs}):
        own = {str(run.override): run for run in runs if run.strategy == strategy}
        ranks = dict(zip(own, mean_ranks(list(own.values()), scores, metrics), strict=True))
        entries = []
        for candidate in candidates:
            rank, best = ranks.get(candidate, np.nan), candidate in ranks and ranks[candidate] == min(ranks.values())
            text = UNKNOWN if candidate not in own else "failed" if own[candidate].failure else f"{rank:.2f}"
            entries.append(Entry(text, rank, mark="best" if best and len(ranks) == len(candidates) else ""))
        rows.append(Row(strategy, "", entries))
    caption = f"Mean rank over {len(scores) if scores else 'all'} scores; the best candidate is used above"
    return Table(caption, ["strategy", *candidates], [rows]) if rows else None
