"""Builds a training run from its configuration: `scripts.parts`, then what reads audio, then the trainer."""

import subprocess
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import torch
from omegaconf import DictConfig

from codec.config import CodecConfig
from codec.training import CheckpointStore, RunLogger, Trainer, TrainingConfig, TrainingData, Validation
from codec.training.distributed import Processes, process_group
from codec.training.logging.progress_bar import ProgressDisplay
from codec.training.logging.run_logger import Sink
from codec.training.startup.device import select_device
from data import Corpus, HeldOutClip, held_out_clips, input_samples, transformed
from scripts.init_from import log_pretrained
from scripts.parts import build_parts, instantiate
from scripts.run_folder import check_folder, check_keys, claimed, resolve, save_config
from scripts.values import check_values

__all__ = ["CONFIGS", "build_trainer", "check_run", "open_run"]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def check_run(cfg: DictConfig) -> Path:
    """Checks everything that can be checked without audio. Makes no file and no folder.

    Returns:
        The run's folder.

    Raises:
        ValueError: A setting is invalid, or the folder holds a run with other settings.
    """
    folder = _check_settings(cfg)
    build_parts(cfg, folder, Processes(), select_device(cfg.trainer.device))
    return folder


def _check_settings(cfg: DictConfig) -> Path:
    check_keys(cfg)
    check_values(cfg)
    return check_folder(cfg)


@contextmanager
def open_run(
    cfg: DictConfig, console: TextIO | None = None, sinks: Sequence[Sink] = (), resume_command: str | None = None
) -> Iterator[Trainer]:
    """A trainer that is ready to start or resume. Its logger is closed at the end; errors are written to log.txt.

    A mistake in the settings or the audio leaves no new folder. Under torchrun this process is one of several that
    train together; the main one locks the folder.

    Args:
        console, sinks, resume_command: See `build_trainer`.

    Raises:
        ValueError: A setting is invalid, the folder holds a run with other settings, or another process trains in it.
    """
    folder = _check_settings(cfg)
    with process_group(select_device(cfg.trainer.device)) as (processes, device), ExitStack() as held:
        if processes.is_main:
            held.enter_context(claimed(folder))
        trainer = build_trainer(cfg, folder, console, processes, device, sinks, resume_command)
        try:
            if processes.is_main:
                save_config(cfg, folder / "config.yaml")
            yield trainer
        except Exception:
            with open(folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace") as log:
                traceback.print_exc(file=log)
            raise
        finally:
            trainer.logger.close()


def build_trainer(
    cfg: DictConfig,
    folder: Path,
    console: TextIO | None = None,
    processes: Processes | None = None,
    device: torch.device | str = "cpu",
    sinks: Sequence[Sink] = (),
    resume_command: str | None = None,
) -> Trainer:
    """Creates all parts of a run. Parts that need no audio come first, so that a mistake is reported at once.

    Args:
        folder: The run's folder.
        console: Where progress is shown; standard output if None.
        processes: The processes that train together; this one alone if None.
        device: The device of this process.
        sinks: Receive metrics and audio, in addition to `logger.sinks` of the settings.
        resume_command: The command that resumes the run, for messages; None for that of this process.
    """
    processes = processes or Processes()
    parts = build_parts(cfg, folder, processes, device)
    with processes.main_process_first():
        corpus, data, clips = _build_data(cfg, parts.codec.config, processes)
    config = parts.config.in_steps(data.steps_per_epoch)
    logger = _build_logger(cfg, folder, config, console, [*sinks, *parts.sinks], processes)
    try:
        _log_corpus(corpus, clips, logger)
        validation = _build_validation(cfg, folder, clips)
        trainer = Trainer(
            parts.codec,
            parts.losses,
            parts.adversarial,
            parts.balancer,
            parts.optimizer,
            config,
            data,
            validation,
            CheckpointStore(folder / "checkpoints", **instantiate(cfg.checkpoints), report=logger.message),
            logger,
            processes,
            resume_command,
        )
        if parts.pretrained is not None:
            if cfg.init_from_parts is None:
                trainer.average.load_state_dict(parts.pretrained.state["average"])
            log_pretrained(cfg, parts.pretrained, parts.adversarial, logger)
        return trainer
    except BaseException:
        logger.close()
        raise


def _build_validation(cfg: DictConfig, folder: Path, clips: Sequence[HeldOutClip]) -> Validation:
    settings = instantiate(cfg.validation)
    try:
        return Validation(clips, folder / "samples", **settings)
    except ValueError as error:  # a group that the held-out clips do not have
        raise ValueError(f"validation: {error}") from error


def _build_data(
    cfg: DictConfig, codec: CodecConfig, processes: Processes
) -> tuple[Corpus, TrainingData, list[HeldOutClip]]:
    rate, channels = codec.sample_rate, codec.channels
    transforms = list(instantiate(cfg.data.transforms))
    corpus: Corpus = instantiate(cfg.data.corpus)
    samples = round(cfg.data.segment_seconds * rate)
    # Called here, because hydra would turn the manifest, a dataclass, into a config.
    dataset = instantiate(cfg.data.dataset, _partial_=True)(
        manifest=corpus.train,
        sample_rate=rate,
        channels=channels,
        segment_seconds=input_samples(transforms, samples) / rate,
        seed=cfg.seed,
        source_weights=corpus.source_weights,
    )
    if transforms:
        dataset = transformed(dataset, transforms, cfg.seed, samples)
    clips = held_out_clips(corpus.held_out, rate, channels, **instantiate(cfg.data.held_out))
    data = TrainingData(dataset, cfg.data.batch_size, cfg.data.num_workers, processes.rank, processes.world_size)
    return corpus, data, clips


def _build_logger(
    cfg: DictConfig,
    folder: Path,
    config: TrainingConfig,
    console: TextIO | None,
    sinks: Sequence[Sink],
    processes: Processes,
) -> RunLogger:
    max_seconds = None if config.max_minutes is None else 60 * config.max_minutes
    display = ProgressDisplay(config.max_steps, max_seconds, console)
    return RunLogger(folder, sinks, display, resolve(cfg), processes.is_main)


def _log_corpus(corpus: Corpus, clips: Sequence[HeldOutClip], logger: RunLogger) -> None:
    skipped = [(m.root, *entry) for m in (corpus.train, corpus.held_out) for entry in m.skipped_files]
    if logger.is_main:
        for root, path, reason in skipped:
            logger.skip_file(str(Path(root) / path), reason)
    if skipped:
        logger.message(f"skipped files: {len(skipped)}, listed in {logger.folder / 'skipped_files.txt'}")
    minutes = corpus.train.seconds / 60
    logger.describe(corpus=f"{corpus.name}, {minutes:.1f} min in {len(corpus.train.entries)} files", commit=_commit())
    logger.message(f"{corpus.name}: {minutes:.1f} min of training audio, {len(clips)} held-out clips")


def _commit() -> str | None:
    """The commit of this checkout, with `-dirty` after local changes; None if it is no git repository."""
    command = ["git", "-C", str(CONFIGS.parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
