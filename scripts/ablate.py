"""Ablates the balancing strategies: trains every cell of a grid, scores it, and writes one page on all of them.

python -m scripts.ablate [setting=value ...] [hydra/launcher=joblib]

Exit status: see scripts.command_line. Each cell has a run folder of its own, and a log.txt in it.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from codec.evaluation import METRICS, check_packages, select_metrics
from codec.training import CheckpointError, TrainingConfig, load_checkpoint
from codec.training.checkpoint.pretrained import check_architecture
from scripts.ablation.display import GridDisplay
from scripts.ablation.grid import BASE, ablation_folder, base_config, check_grid, grid_runs, run_config
from scripts.ablation.report.page import write_ablation_report
from scripts.ablation.report.runs import conditions_by_weights, ordered, read_runs
from scripts.ablation.report.tables import score_table
from scripts.ablation.run import error_path, run_job
from scripts.command_line import compose, execute
from scripts.composition import CHANGEABLE_ON_RESUME, CONFIGS, check_keys, check_unchanged, make, save_config
from scripts.train import SUMMARY

# A changed grid keeps the cells it has; all else is the same for all of them, how long they train first of all.
_GRID = ("name", "runs_folder", "strategies", "baseline", "seeds", "weights", "loss_ablations")
_FREE_IN_CELLS = {*CHANGEABLE_ON_RESUME} - {"trainer.max_steps", "trainer.max_epochs", "trainer.max_minutes"}
_FREE_IN_CELLS -= {"trainer.log_every", "trainer.validate_every"}


class Plan(NamedTuple):
    """What the command line asks for."""

    cfg: DictConfig
    cells: list[str]
    base_wanted: bool  # whether the common checkpoint is still to be trained


def ablate() -> None:
    """Runs what is left to run of the grid that the command line asks for, then writes its page."""
    plans = compose("ablate", _plan)
    if len(plans) > 1:
        raise ValueError("one ablation at a time is wanted, got several: the grid is strategies=, seeds=, weights=")
    for plan in plans:
        _run(plan)


def _run(plan: Plan) -> None:
    """Raises RuntimeError with the line of the first job that failed, when all that can be done is done."""
    cfg, folder = plan.cfg, ablation_folder(plan.cfg)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(_settings(cfg), folder / "ablation.yaml")
    if plan.base_wanted:
        print(f"The common checkpoint first: {cfg.base}", flush=True)
        _launch(folder, [BASE])
        _raise_failures(folder, [BASE])
    pending = [name for name in plan.cells if not (folder / "runs" / name / "result.json").exists()]
    if pending:
        budget = TrainingConfig(max_steps=cfg.max_steps, max_minutes=cfg.max_minutes)
        with GridDisplay(folder / "runs", plan.cells, budget).shown():
            _launch(folder, pending)
    page = write_ablation_report(folder, cfg.baseline)
    _print_scores(folder, cfg.baseline)
    for label, path in (("page", page), ("table", folder / "results.csv"), ("runs", folder / "runs")):
        print(f"  {label:<8} {path}")
    _raise_failures(folder, pending)


def _plan(cfg: DictConfig) -> Plan:
    """Finds all that can be found wrong before anything is trained.

    Raises:
        ValueError: A setting makes no sense, or contradicts what is there already.
    """
    check_grid(cfg)
    folder = ablation_folder(cfg)
    check_packages(select_metrics(cfg.metrics).values())
    if any((folder / "runs").glob("*/config.yaml")):
        check_unchanged(folder, folder / "ablation.yaml", _settings(cfg), _GRID)
    trainings = {name: run_config(cfg, cell) for name, cell in grid_runs(cfg).items()}
    for name, train in trainings.items():
        check_keys(train)
        make(train.balancer)
        check_unchanged(folder / "runs" / name, folder / "runs" / name / "config.yaml", train, _FREE_IN_CELLS)
    return Plan(cfg, list(trainings), cfg.start == "from_base" and _base_is_wanted(cfg, next(iter(trainings.values()))))


def _base_is_wanted(cfg: DictConfig, train: DictConfig) -> bool:
    """Whether the common checkpoint is still to be trained; there or not, it must fit."""
    base = Path(cfg.base)
    wanted = not (base / SUMMARY).exists()
    try:
        if wanted:
            own = base_config(cfg)
            check_keys(own)
            state = {"codec_config": make(own.codec).config.to_dict()}
        else:
            state = load_checkpoint(base).state
        check_architecture(state, make(train.codec))
    except (CheckpointError, ValueError) as error:
        raise ValueError(f"base={base}: {error}") from error
    return wanted


def _settings(cfg: DictConfig) -> DictConfig:
    """Those of the ablation, without what belongs to one job."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "job"])


def _launch(folder: Path, jobs: list[str]) -> None:
    """Has Hydra's launcher run `run_job` for each of `jobs`, with the settings of this command line."""
    arguments = sys.argv
    sweep = ",".join(f"'{job}'" for job in jobs)
    sys.argv = [arguments[0], "--multirun", *arguments[1:], f"job={sweep}"]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="ablate")(run_job)()
    finally:
        sys.argv = arguments
        (folder / "multirun.yaml").unlink(missing_ok=True)  # Hydra's copy of what ablation.yaml says


def _raise_failures(folder: Path, jobs: list[str]) -> None:
    failed = [path for path in (error_path(folder, job) for job in jobs) if path.exists()]
    if failed:
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RuntimeError(failed[0].read_text(encoding="utf-8") + others)


def _print_scores(folder: Path, reference: str) -> None:
    cells, _, _ = read_runs(folder)
    console = Console(width=None if sys.stdout.isatty() else 160)
    metrics = ordered((name for cell in cells for name in cell.scores), METRICS)
    for weights, conditions in conditions_by_weights(cells, reference).items():
        scores = score_table(
            f"loss weights: {weights}", conditions, metrics, lambda cell, name: cell.scores.get(name, float("nan"))
        )
        shown = Table(*scores.head, title=scores.caption, box=SIMPLE_HEAD)
        for body in scores.bodies:
            for row in body:
                shown.add_row(row.name, *(entry.text for entry in row.entries))
            shown.add_section()
        console.print(shown)


def main() -> None:
    """The command; see the head of this file."""
    execute(ablate, "stopped; the same command goes on with the cells that are not finished")


if __name__ == "__main__":
    main()
