"""The search before the grid: every strategy tries the same values of one setting, and the grid uses its best one."""

import numpy as np
from omegaconf import DictConfig, ListConfig

from codec.evaluation import METRICS
from scripts.ablation.grid import GridRun, ablation_folder, selected_metrics, strategies
from scripts.ablation.report.runs import read_runs
from scripts.ablation.report.search import mean_ranks

__all__ = ["best_overrides", "check_search", "search_runs"]


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
    metrics = selected_metrics(cfg)
    for score in search.scores or ():
        name = str(score).rpartition("/")[2]
        if name not in metrics or not metrics[name].sign:
            raise ValueError(
                f"search.scores must be GROUP/METRIC with a METRIC of metrics that has a better direction, got {score}"
            )


def search_runs(cfg: DictConfig) -> dict[str, GridRun]:
    """The runs of the search by name, value by value; empty without a search."""
    if cfg.search.setting is None:
        return {}
    overrides = [f"{cfg.search.setting}={value}" for value in cfg.search.candidates]
    runs = [
        GridRun(strategy, balancer, cfg.search.seed, override=override, folder="search")
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
    metrics = {**METRICS, **selected_metrics(cfg)}
    finished = {run.folder.name: run for run in read_runs(ablation_folder(cfg), "search")[0]}
    best = {}
    for strategy in dict.fromkeys(expected.values()):
        names = [name for name, of_strategy in expected.items() if of_strategy == strategy]
        if all(name in finished for name in names):
            runs = [finished[name] for name in names]
            best[strategy] = str(runs[int(np.argmin(mean_ranks(runs, cfg.search.scores, metrics)))].override)
    return best
