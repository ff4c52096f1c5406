"""The runs of an ablation and the training configuration of each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from codec.evaluation import Metric, select_metrics
from codec.training import TrainingConfig
from scripts.errors import unknown_name

__all__ = [
    "BASE",
    "START",
    "GridRun",
    "ablation_folder",
    "base_config",
    "check_grid",
    "grid_runs",
    "run_config",
    "selected_metrics",
    "start_runs",
    "strategies",
]

BASE = "base"  # the job that trains the common checkpoint
START = "start"  # the folder of its scores
_CHECKPOINT = "checkpoint"
_DEFAULT_WEIGHTS = "default"
_LOSS_ABLATIONS = ("single_loss", "leave_one_out")
_STARTS = ("from_base", "from_scratch")


class GridRun(NamedTuple):
    """One training run of the grid or of its search, or the checkpoint that they start from."""

    strategy: str  # as listed in the settings, or only-LOSS, without-LOSS, checkpoint
    balancer: Sequence[str]  # overrides that select the strategy
    seed: int
    weight_factors: Mapping[str, float] = {}  # loss -> factor of its weight
    loss_ablation: str | None = None  # single_loss or leave_one_out
    loss: str | None = None  # the loss that is kept alone or left out
    override: str | None = None  # setting=value that the search tries, or that it found for the strategy
    folder: str = "runs"  # runs, search or start: the folder of the ablation that has the run's folder

    @property
    def weights(self) -> str:
        """The name of the weight setting, such as `adversarial-x10`."""
        return "-".join(f"{loss}-x{factor:g}" for loss, factor in self.weight_factors.items()) or _DEFAULT_WEIGHTS

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        if self.folder == START:
            return self.strategy
        middle = f"search.{self.override}" if self.folder == "search" else self.weights
        strategy, middle = (re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-") for text in (self.strategy, middle))
        return f"{strategy}.{middle}.seed{self.seed}"


def ablation_folder(cfg: DictConfig) -> Path:
    return Path(cfg.runs_folder) / str(cfg.name)


def check_grid(cfg: DictConfig) -> None:
    """Checks the settings of configs/ablate.yaml, as far as that is possible without the training configurations.

    Raises:
        ValueError: A setting is invalid; the message names it with its expected and actual value.
    """
    folder = ablation_folder(cfg)
    if not str(cfg.name or "").strip() or folder.resolve().parent != Path(cfg.runs_folder).resolve():
        raise ValueError(f"name must be the name of a folder in {cfg.runs_folder}, got {cfg.name!r}")
    for key in ("strategies", "seeds", "weights", "metrics"):
        if not isinstance(cfg[key], ListConfig) or not len(cfg[key]):
            raise ValueError(f"{key} must be a list with at least one entry, got {cfg[key]}")
    for name, (choice, *_) in strategies(cfg).items():
        if not re.search("[A-Za-z0-9]", name):
            raise ValueError(f"strategies: a name must have letters or digits, got {name!r}")
        known = GlobalHydra.instance().config_loader().get_group_options("balancer")
        if choice.removeprefix("balancer=") not in known:
            raise ValueError(unknown_name(choice, choice.removeprefix("balancer="), known))
    for seed in cfg.seeds:
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seeds must be integers of at least 0, got {seed!r}")
    for factors in cfg.weights:
        if not isinstance(factors, DictConfig) or not all(_is_factor(factor) for factor in factors.values()):
            raise ValueError(
                f"weights must be a list of {{loss: factor}} with factors of at least 0, got {cfg.weights}"
            )
    _check_choice("start", cfg.start, _STARTS)
    for loss_ablation in cfg.loss_ablations:
        _check_choice("loss_ablations", loss_ablation, _LOSS_ABLATIONS)
    if cfg.baseline not in strategies(cfg):
        raise ValueError(
            f"baseline={cfg.baseline} must be one of the strategies ({', '.join(strategies(cfg))}): "
            "add it to strategies, or choose another baseline"
        )
    TrainingConfig(max_steps=cfg.max_steps, max_minutes=cfg.max_minutes)


def _check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} must be {' or '.join(choices)}, got {value!r}")


def _is_factor(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < float("inf")


def grid_runs(cfg: DictConfig, overrides: Mapping[str, str] | None = None) -> dict[str, GridRun]:
    """All runs by name. The runs of one seed come first, so that strategies can be compared early.

    Args:
        overrides: Strategy -> setting=value that the search found for it.

    Raises:
        ValueError: Two runs have the same name.
    """
    runs: dict[str, GridRun] = {}
    for run in _grid_runs(cfg, overrides or {}):
        if run.name in runs:
            raise ValueError(f"two runs have the name {run.name}: remove the repeated strategy, seed or weights")
        runs[run.name] = run
    return runs


def _grid_runs(cfg: DictConfig, overrides: Mapping[str, str]) -> Iterator[GridRun]:
    chosen = strategies(cfg)
    baseline = chosen[cfg.baseline]
    losses = _weighted_losses(cfg, baseline) if cfg.loss_ablations else ()
    for seed in cfg.seeds:
        for factors in cfg.weights:
            for strategy, balancer in chosen.items():
                weight_factors: Any = OmegaConf.to_container(factors)
                yield GridRun(strategy, balancer, seed, weight_factors, override=overrides.get(strategy))
        for loss_ablation in cfg.loss_ablations:
            for loss in losses:
                name = f"{'only' if loss_ablation == 'single_loss' else 'without'}-{loss}"
                override = overrides.get(cfg.baseline)
                yield GridRun(name, baseline, seed, loss_ablation=loss_ablation, loss=loss, override=override)


def start_runs(cfg: DictConfig) -> dict[str, GridRun]:
    """The checkpoint that all runs start from, as a run without a step; empty if they start from scratch."""
    if cfg.start != "from_base":
        return {}
    return {_CHECKPOINT: GridRun(_CHECKPOINT, (), seed=0, folder=START)}


def selected_metrics(cfg: DictConfig) -> dict[str, Metric]:
    """The metrics that score the runs, by name.

    Raises:
        ValueError: `cfg.metrics` is invalid.
    """
    try:
        return select_metrics(cfg.metrics)
    except ValueError as error:
        raise ValueError(f"metrics: {error}") from error


def strategies(cfg: DictConfig) -> dict[str, list[str]]:
    """Name of each strategy -> the overrides of a training configuration that select it.

    Raises:
        ValueError: An entry of `cfg.strategies` is neither a text nor a name with a text, or two have the same name.
    """
    found: dict[str, list[str]] = {}
    for entry in cfg.strategies:
        named = dict(entry) if isinstance(entry, DictConfig) else {entry: entry}
        (name, text), *others = named.items() or [(None, None)]
        if others or not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            raise ValueError(
                "strategies must be files of configs/balancer, each with or without overrides, or {name: 'file "
                f"overrides'}}, got {entry}"
            )
        if name in found:
            raise ValueError(f"strategies: there are two of the name {name}, remove one or give it a name of its own")
        choice, *overrides = text.split()
        found[name] = [f"balancer={choice}", *overrides]
    return found


def _weighted_losses(cfg: DictConfig, balancer: Sequence[str]) -> list[str]:
    weights = _compose_run(cfg, balancer).losses.weights
    return [str(loss) for loss, weight in weights.items() if weight > 0]


def run_config(cfg: DictConfig, run: GridRun) -> DictConfig:
    """The training configuration of a run. Hydra must be initialized.

    Raises:
        ValueError: `run.weight_factors` names a loss that does not exist.
        HydraException: A strategy, experiment or setting does not exist.
    """
    train = _compose_run(cfg, [*run.balancer, *([] if run.override is None else [run.override])])
    weights = train.losses.weights
    for loss, factor in run.weight_factors.items():
        if loss not in weights:
            raise ValueError(f"weights: there is no loss {loss}, expected one of {', '.join(map(str, weights))}")
        weights[loss] *= factor
    if run.loss_ablation is not None:
        for loss in weights:
            if (loss == run.loss) != (run.loss_ablation == "single_loss"):
                weights[loss] = 0.0
    train.name = run.name
    train.runs_folder = str(ablation_folder(cfg) / run.folder)
    train.seed = run.seed
    train.init_from = cfg.base if cfg.start == "from_base" else None
    train.trainer.rollback.max_rollbacks = 0  # after a rollback the lr is lower: the run could not be compared
    length = (cfg.search.max_steps, None) if run.folder == "search" else (cfg.max_steps, cfg.max_minutes)
    train.trainer.update(max_steps=length[0], max_epochs=None, max_minutes=length[1])
    return train


def base_config(cfg: DictConfig) -> DictConfig:
    """The training configuration of the common checkpoint. Hydra must be initialized."""
    train = compose("train", [f"experiment={cfg.experiments.base}", *cfg.base_overrides])
    base = Path(cfg.base)
    train.name, train.runs_folder = base.name, str(base.parent)
    return train


def _compose_run(cfg: DictConfig, balancer: Sequence[str]) -> DictConfig:
    magnitude = [] if cfg.magnitude is None else [f"balancer/magnitude={cfg.magnitude}"]
    return deepcopy(_compose(f"experiment={cfg.experiments[cfg.start]}", *cfg.overrides, *magnitude, *balancer))


@cache  # composing takes 0.3 s, and all seeds of a strategy share the result
def _compose(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))
