"""The cells of an ablation, and the training configuration of each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hydra import compose
from omegaconf import DictConfig, ListConfig, OmegaConf

from codec.training import TrainingConfig

__all__ = ["BASE", "Cell", "ablation_folder", "base_config", "check_grid", "grid_runs", "run_config"]

BASE = "base"  # the job that trains the common checkpoint
_DEFAULT = "default"
_LOSS_ABLATIONS = ("single_loss", "leave_one_out")
_STARTS = ("from_base", "from_scratch")


class Cell(NamedTuple):
    """One training run of the grid."""

    strategy: str  # as it is listed, or only-LOSS, without-LOSS
    balancer: Sequence[str]  # overrides that select it
    seed: int
    factors: Mapping[str, float] = {}  # of loss weights
    loss_ablation: str | None = None  # single_loss or leave_one_out
    loss: str | None = None  # which the loss ablation is about

    @property
    def weights(self) -> str:
        """What the setting of the loss weights is called."""
        return "-".join(f"{loss}-x{factor:g}" for loss, factor in self.factors.items()) or _DEFAULT

    @property
    def name(self) -> str:
        """Of its folder."""
        strategy = re.sub(r"[^A-Za-z0-9_.]+", "-", self.strategy).strip("-")
        return f"{strategy}.{self.weights}.seed{self.seed}"


def ablation_folder(cfg: DictConfig) -> Path:
    return Path(cfg.runs_folder) / str(cfg.name)


def check_grid(cfg: DictConfig) -> None:
    """Refuses an ablation that makes no sense, as far as that can be told without its training configurations.

    Raises:
        ValueError: What was wanted and what was got.
    """
    folder = ablation_folder(cfg)
    if not str(cfg.name or "").strip() or folder.resolve().parent != Path(cfg.runs_folder).resolve():
        raise ValueError(f"name must be that of a folder in {cfg.runs_folder}, got {cfg.name!r}")
    for key in ("strategies", "seeds", "weights", "metrics"):
        if not isinstance(cfg[key], ListConfig) or not len(cfg[key]):
            raise ValueError(f"{key} must be a list of at least one, got {cfg[key]}")
    for strategy in cfg.strategies:
        if not isinstance(strategy, str) or not strategy.strip():
            raise ValueError(f"strategies are names, with overrides behind them if there are any, got {strategy!r}")
    for seed in cfg.seeds:
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seeds must be whole numbers from 0 on, got {seed!r}")
    for factors in cfg.weights:
        if not isinstance(factors, DictConfig) or not all(_is_factor(factor) for factor in factors.values()):
            raise ValueError(f"weights must be a list of {{loss: factor}}, factors not negative, got {cfg.weights}")
    for key, offered in (("loss_ablations", _LOSS_ABLATIONS), ("start", _STARTS)):
        chosen = [cfg[key]] if key == "start" else list(cfg[key])
        unknown = [each for each in chosen if each not in offered]
        if unknown:
            raise ValueError(f"{key} must be {' or '.join(offered)}, got {unknown[0]!r}")
    if cfg.baseline not in cfg.strategies:
        raise ValueError(
            f"baseline={cfg.baseline} must be one of the strategies, got {', '.join(cfg.strategies)}: add it, or "
            "choose another baseline="
        )
    TrainingConfig(max_steps=cfg.max_steps, max_minutes=cfg.max_minutes)


def _is_factor(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < float("inf")


def grid_runs(cfg: DictConfig) -> dict[str, Cell]:
    """All cells by their names, seed by seed so that strategies can be compared early.

    Raises:
        ValueError: Two cells would have the same name.
    """
    cells: dict[str, Cell] = {}
    for cell in _cells(cfg):
        if cell.name in cells:
            raise ValueError(f"two cells would be called {cell.name}: something is listed twice")
        cells[cell.name] = cell
    return cells


def _cells(cfg: DictConfig) -> Iterator[Cell]:
    reference = _selecting(cfg.baseline)
    losses = _losses(cfg, reference) if cfg.loss_ablations else ()
    for seed in cfg.seeds:
        for factors in cfg.weights:
            for strategy in cfg.strategies:
                yield Cell(strategy, _selecting(strategy), seed, OmegaConf.to_container(factors))  # type: ignore[arg-type]
        for loss_ablation in cfg.loss_ablations:
            for loss in losses:
                name = f"{'only' if loss_ablation == 'single_loss' else 'without'}-{loss}"
                yield Cell(name, reference, seed, loss_ablation=loss_ablation, loss=loss)


def _selecting(strategy: str) -> list[str]:
    name, *overrides = strategy.split()
    return [f"balancer={name}", *overrides]


def _losses(cfg: DictConfig, balancer: Sequence[str]) -> list[str]:
    weights = _composed(cfg, balancer).losses.weights
    return [str(loss) for loss, weight in weights.items() if weight > 0]


def run_config(cfg: DictConfig, cell: Cell) -> DictConfig:
    """The training configuration of a cell; to be called where Hydra is initialised.

    Raises:
        ValueError: There is no such loss.
        HydraException: There is no such strategy, experiment or setting.
    """
    train = _composed(cfg, cell.balancer)
    weights = train.losses.weights
    for loss, factor in cell.factors.items():
        if loss not in weights:
            raise ValueError(f"weights: there is no loss {loss}, only {', '.join(map(str, weights))}")
        weights[loss] *= factor
    if cell.loss_ablation is not None:
        for loss in weights:
            if (loss == cell.loss) != (cell.loss_ablation == "single_loss"):
                weights[loss] = 0.0
    train.name = cell.name
    train.runs_folder = str(ablation_folder(cfg) / "runs")
    train.seed = cell.seed
    train.init_from = cfg.base if cfg.start == "from_base" else None
    train.trainer.rollback.max_rollbacks = 0  # a cell that went on at a lower rate could not be compared
    train.trainer.update(max_steps=cfg.max_steps, max_epochs=None, max_minutes=cfg.max_minutes)
    return train


def base_config(cfg: DictConfig) -> DictConfig:
    """The training configuration of the common checkpoint; to be called where Hydra is initialised."""
    train = compose("train", [f"experiment={cfg.experiments.base}", *cfg.base_overrides])
    base = Path(cfg.base)
    train.name, train.runs_folder = base.name, str(base.parent)
    return train


def _composed(cfg: DictConfig, balancer: Sequence[str]) -> DictConfig:
    magnitude = [] if cfg.magnitude is None else [f"balancer/magnitude={cfg.magnitude}"]
    return deepcopy(_compose(f"experiment={cfg.experiments[cfg.start]}", *cfg.overrides, *magnitude, *balancer))


@cache  # it takes a third of a second, and the seeds of a strategy have it in common
def _compose(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))
