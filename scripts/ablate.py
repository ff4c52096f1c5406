"""Ablates the balancing strategies: trains all runs of a grid, scores them, and writes a report.

python -m scripts.ablate [setting=value ...] [hydra/launcher=joblib]

Exit status: see scripts.command_line. Each run has its own folder with a log.txt.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from codec.audio import readable
from codec.evaluation import METRICS, Metric, check_packages
from codec.training import CheckpointError, TrainingConfig, load_checkpoint
from codec.training.checkpoint.pretrained import check_architecture
from scripts.ablation.display import GridDisplay
from scripts.ablation.grid import (
    BASE,
    START,
    ablation_folder,
    base_config,
    check_grid,
    grid_runs,
    run_config,
    selected_metrics,
    start_runs,
)
from scripts.ablation.report import write_ablation_report
from scripts.ablation.report.runs import conditions_by_weights, read_runs
from scripts.ablation.report.tables import described, score_table
from scripts.ablation.run import error_path, run_job
from scripts.ablation.search import best_overrides, check_search, search_runs
from scripts.command_line import compose, execute, hydra_arguments
from scripts.composition import CONFIGS
from scripts.parts import instantiate
from scripts.run_folder import CHANGEABLE_ON_RESUME, check_keys, check_unchanged, check_writable, save_config
from scripts.train import SUMMARY
from scripts.values import check_values

# The grid may change while finished runs are kept. All runs must share every other setting.
_CHANGEABLE_IN_GRID = ("name", "runs_folder", "strategies", "baseline", "seeds", "weights", "loss_ablations")
_SHARED_BY_RUNS = {
    f"trainer.{key}" for key in ("max_steps", "max_epochs", "max_minutes", "log_every", "validate_every")
}
_CHANGEABLE_IN_RUNS = {*CHANGEABLE_ON_RESUME} - _SHARED_BY_RUNS


_FILE = CONFIGS / "ablate.yaml"


class Plan(NamedTuple):
    """What the command line asks for."""

    cfg: DictConfig
    start: list[str]  # the checkpoint that has to be scored, if runs start from one
    search: list[str]  # names of the runs of the search
    runs: list[str]  # names of all other runs
    train_base: bool  # the common checkpoint must be trained first


def ablate() -> None:
    """Trains the unfinished runs of the ablation on the command line, then writes its report."""
    plans = compose("ablate", _plan)
    if len(plans) > 1:
        raise ValueError(
            "expected one ablation, got several: use strategies=, seeds= and weights= instead of --multirun"
        )
    for plan in plans:
        _run(plan)


def _run(plan: Plan) -> None:
    """Raises RuntimeError with the message of the first failed job, after all other jobs have finished."""
    cfg, folder = plan.cfg, ablation_folder(plan.cfg)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(_settings(cfg), folder / "ablation.yaml")
    if plan.train_base:
        print(
            f"All runs start from {cfg.base}, a run of experiment={cfg.experiments.base}. It is not finished, so it is "
            "trained first.",
            flush=True,
        )
        _launch(folder, [BASE])
        _raise_failures(folder, [BASE])
    if unscored := _unfinished(folder, START, plan.start):
        _launch(folder, unscored)
        _raise_failures(folder, unscored)
    searched = _train(folder, "search", plan.search, TrainingConfig(max_steps=cfg.search.max_steps))
    _raise_failures(folder, searched)
    budget = TrainingConfig(max_steps=cfg.max_steps, max_minutes=cfg.max_minutes)
    pending = _train(folder, "runs", plan.runs, budget)
    metrics = {**METRICS, **selected_metrics(cfg)}
    page = write_ablation_report(folder, cfg.baseline, metrics, cfg.search.scores)
    _print_scores(folder, cfg.baseline, metrics)
    for label, path in (("report", page), ("table", folder / "results.csv"), ("runs", folder / "runs")):
        print(f"  {label:<8} {path}")
    _raise_failures(folder, pending)


def _train(folder: Path, kind: str, names: list[str], budget: TrainingConfig) -> list[str]:
    """Trains the runs without a result; returns their names."""
    pending = _unfinished(folder, kind, names)
    if pending:
        with GridDisplay(folder / kind, names, budget).shown():
            _launch(folder, pending)
    return pending


def _unfinished(folder: Path, kind: str, names: list[str]) -> list[str]:
    return [name for name in names if not (folder / kind / name / "result.json").exists()]


def _plan(cfg: DictConfig) -> Plan:
    """Checks everything that can be checked before training.

    Raises:
        ValueError: A setting is invalid, or differs from the existing ablation.
    """
    check_grid(cfg)
    check_search(cfg)
    if cfg.start == "from_base":
        _check_base(Path(cfg.base))
    folder = ablation_folder(cfg)
    check_writable(folder)
    check_packages(selected_metrics(cfg).values())
    if any((folder / "runs").glob("*/config.yaml")):
        check_unchanged(folder, folder / "ablation.yaml", _settings(cfg), _CHANGEABLE_IN_GRID)
    start, search, runs = start_runs(cfg), search_runs(cfg), grid_runs(cfg, best_overrides(cfg))
    configs = [(run, run_config(cfg, run)) for run in (*start.values(), *search.values(), *runs.values())]
    for run, train in configs:
        check_keys(train)
        check_values(train)
        instantiate(train.balancer)
        run_folder = folder / run.folder / run.name
        check_unchanged(run_folder, run_folder / "config.yaml", train, _CHANGEABLE_IN_RUNS)
    train_base = cfg.start == "from_base" and _base_is_unfinished(cfg, configs[0][1])
    return Plan(cfg, list(start), list(search), list(runs), train_base)


def _base_is_unfinished(cfg: DictConfig, train: DictConfig) -> bool:
    """Whether the common checkpoint must be trained. Checks its architecture in either case."""
    base = Path(cfg.base)
    unfinished = not (base / SUMMARY).exists()
    try:
        if unfinished:
            base_train = base_config(cfg)
            check_keys(base_train)
            state = {"codec_config": instantiate(base_train.codec).config.to_dict()}
        else:
            state = load_checkpoint(base).state
        codec = instantiate(train.codec)
    except (CheckpointError, ValueError) as error:
        raise ValueError(f"base={base}: {error}") from error
    try:
        check_architecture(state, codec)
    except ValueError as error:
        raise ValueError(f"base={base}: {error}: choose another base, or give its codec in overrides") from error
    return unfinished


def _check_base(base: Path) -> None:
    """A mistyped path must not become a run: a missing base is trained if it is the default, or if it is described."""
    keys = {override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task}
    if "base" not in keys or (base / "config.yaml").exists() or base == Path(OmegaConf.load(_FILE).base):
        return
    if not any(key.split(".")[0] in ("experiments", "base_overrides") for key in keys):
        raise ValueError(
            f"base={readable(base)}: there is no run in this folder; to train one there, name its experiment with "
            "experiments.base="
        )


def _settings(cfg: DictConfig) -> DictConfig:
    """The settings of the ablation, without the one that differs between jobs."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "job"])


def _launch(folder: Path, jobs: list[str]) -> None:
    """Lets Hydra's launcher call `run_job` for each of `jobs`, with the settings of this command line."""
    sweep = ",".join(f"'{job}'" for job in jobs)
    try:
        with hydra_arguments():
            sys.argv = [sys.argv[0], "--multirun", *sys.argv[1:], f"job={sweep}"]
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="ablate")(run_job)()
    finally:
        (folder / "multirun.yaml").unlink(missing_ok=True)  # a copy of ablation.yaml that Hydra writes


def _raise_failures(folder: Path, jobs: list[str]) -> None:
    failed = [path for path in (error_path(folder, job) for job in jobs) if path.exists()]
    if failed:
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RuntimeError(failed[0].read_text(encoding="utf-8") + others)


def _print_scores(folder: Path, baseline: str, metrics: Mapping[str, Metric]) -> None:
    runs, start = read_runs(folder)[0], read_runs(folder, START)[0]
    console = Console(width=None if sys.stdout.isatty() else 160)
    measured = described((name for run in runs for name in run.scores), metrics)
    for weights, conditions in conditions_by_weights(runs, baseline).items():
        for group, columns in measured.items():
            caption = f"{group or 'codes of all clips'}, loss weights: {weights}"
            scores = score_table(caption, conditions, columns, start)
            shown = Table(*scores.head, title=scores.caption, box=SIMPLE_HEAD)
            for body in scores.bodies:
                for row in body:
                    shown.add_row(row.name, *(entry.text for entry in row.entries))
                shown.add_section()
            console.print(shown)


def main() -> None:
    """The command; see the module docstring."""
    execute(ablate, "stopped; continue with the unfinished runs with")


if __name__ == "__main__":
    main()
