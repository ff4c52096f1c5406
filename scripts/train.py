"""Trains a codec.

python -m scripts.train [group=name ...] [path.to.key=value ...]

Exit status: see scripts.command_line. The traceback of an error is always in the run's log.txt.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from codec.atomic_file import atomic_write
from codec.audio import readable
from codec.evaluation.report.advice import advice
from codec.evaluation.report.records import format_duration, read_metrics
from codec.evaluation.report.scores import Score, score_table
from codec.model_file import MODEL_NAME
from codec.training import Trainer, TrainingStopped
from codec.training.logging.live_report import LiveReport
from scripts.command_line import compose, execute, typed_command
from scripts.composition import check_run, open_run
from scripts.overrides import swept_keys
from scripts.run_name import name_run

SUMMARY = "summary.txt"  # in the run's folder; written last, so it marks a finished run


def run(cfg: DictConfig, resume_command: str | None = None, experiment: str | None = None) -> int | None:
    """Trains with a report page, then prints a summary: scores, files, advice and the next commands.

    A run that was finished before has its summary already.

    Args:
        resume_command: See `open_run`.
        experiment: Name of the experiment, for the reports.

    Returns:
        Number of a signal that came too late to stop the run, in its last step; None without one.
    """
    with open_run(cfg, sinks=[LiveReport()], resume_command=resume_command) as trainer:
        folder = trainer.logger.folder
        trainer.logger.describe(experiment=experiment)
        trainer.logger.message(f"report: {folder / 'report.html'} (updated every {cfg.trainer.validate_every} steps)")
        trainer.run()
    late_signal = trainer.interruptions.received
    if not trainer.processes.is_main:
        return late_signal
    if trainer.was_finished and (folder / SUMMARY).exists():
        print(f"scores: {readable(folder / SUMMARY)}")
        print("to train on, raise trainer.max_steps; for a new run, set another name=")
        return late_signal
    text = "\n".join(summary(trainer, cfg.validation.bandwidth_kbps, experiment))
    with atomic_write(folder / SUMMARY) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    print(f"\n{text}", flush=True)
    return late_signal


def summary(trainer: Trainer, bandwidth_kbps: float, experiment: str | None = None) -> Iterator[str]:
    """The lines that are printed after training: scores at the start and now, files, advice, next commands."""
    folder = trainer.logger.folder
    records, _ = read_metrics(folder / "metrics.jsonl")
    plural = "" if trainer.step == 1 else "s"
    yield f"Trained for {trainer.step:,} step{plural} in {format_duration(trainer.seconds)}."
    yield from _table(score_table([r for r in records if r["split"] == "validation"]), bandwidth_kbps)
    yield ""
    for label, path in (
        ("model", folder / MODEL_NAME),
        ("checkpoints", trainer.store.folder),
        ("samples", folder / "samples"),
        ("report", folder / "report.html"),
    ):
        yield f"  {label:<12} {path}"
    found = advice(records)
    if found:
        yield ""
        yield from (f"- {sentence}" for sentence in found)
    yield ""
    yield "Next:"
    yield from (f"  {command}" for command in _next_commands(folder, experiment))


def _table(scores: Sequence[Score], bandwidth_kbps: float) -> Iterator[str]:
    header = (f"Held-out clips at {bandwidth_kbps:g} kbps", "start", "now", "change")
    yield f"{header[0]:<28} {header[1]:>9} {header[2]:>9} {header[3]:>10}"
    for score in scores:
        yield f"  {f'{score.metric}, {score.group}':<26} {score.first:>9} {score.latest:>9} {score.change:>10}"


def _next_commands(folder: Path, experiment: str | None) -> list[str]:
    run = shlex.quote(str(folder))
    chosen, missing = ("", "experiment= and ") if experiment is None else (f"experiment={experiment} ", "")
    return [
        f".venv/bin/codec encode in.wav --model {run}",
        ".venv/bin/codec decode in.ecdc -o back.wav",
        "bash scripts/setup.sh evaluation   # once, for the next command",
        f".venv/bin/codec evaluate --model {run} --data data/clips/held_out",
        f"bash scripts/train.sh {chosen}name=tuned init_from={run} data=folder data.root=/path/to/audio   # fine-tune;"
        f" add {missing}codec settings if this run had any",
    ]


def train() -> None:
    """Trains every run of the command line. With --multirun all of them are checked before the first starts."""
    runs = compose("train", _named)
    if len(runs) > 1:
        folders = [check_run(cfg) for cfg, _ in runs]
        repeated = [folder for folder, count in Counter(folders).items() if count > 1]
        if repeated:
            raise ValueError(f"{len(runs)} runs would share the folder {repeated[0]}: remove repeated values")
        print(f"{len(runs)} runs: {', '.join(readable(folder) for folder in folders)}", flush=True)
    for number, (cfg, experiment) in enumerate(runs, 1):
        late_signal = run(cfg, typed_command(), experiment)
        if late_signal is not None and number < len(runs):
            command = typed_command() or shlex.join(sys.orig_argv)
            raise TrainingStopped(late_signal, f"stopped after run {number} of {len(runs)}; continue with: {command}")


def _named(cfg: DictConfig) -> tuple[DictConfig, str | None]:
    """The settings with the run's name, and the name of the experiment."""
    hydra_config = HydraConfig.get()
    name_run(cfg, hydra_config.overrides.task, swept_keys(sys.argv[1:]))
    experiment = hydra_config.runtime.choices.get("experiment")
    return cfg, None if experiment == "none" else experiment


def main() -> None:
    """The command; see the module docstring."""
    execute(train, "stopped; continue with")


if __name__ == "__main__":
    main()
