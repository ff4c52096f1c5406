"""Builds a training run from its configuration: every part is created here and handed to the trainer."""

import subprocess
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import hydra.utils
import torch
from omegaconf import DictConfig
from torch import nn

from balancer import Balancer
from codec.config import CodecConfig
from codec.evaluation import check_packages, select_metrics
from codec.model import Codec
from codec.training import (
    AdversarialTraining,
    CheckpointStore,
    RunLogger,
    Trainer,
    TrainingConfig,
    TrainingData,
    Validation,
)
from codec.training.best_score import BestScore
from codec.training.checkpoint.pretrained import Pretrained
from codec.training.checks import check_loss_names, check_parts, check_windows
from codec.training.distributed import Processes, process_group
from codec.training.logging.progress_bar import ProgressDisplay
from codec.training.logging.run_logger import Sink
from codec.training.startup.memory_limit import limit_to_free_memory
from data import Corpus, HeldOutClip, held_out_clips, input_samples, transformed
from scripts.init_from import check_freeze, load_init_from, log_pretrained
from scripts.run_folder import check_folder, check_keys, resolve, save_config
from scripts.values import check_values

__all__ = ["CONFIGS", "build_trainer", "check_run", "instantiate", "open_run", "select_device"]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def instantiate(node: Any, **arguments: Any) -> Any:
    """The object that `_target_` names, created with the other settings of the node and with `arguments`."""
    return hydra.utils.instantiate(node, _convert_="all", **arguments)


def check_run(cfg: DictConfig) -> Path:
    """Checks everything that can be checked without audio. Makes no file and no folder.

    Returns:
        The run's folder.

    Raises:
        ValueError: A setting is invalid, or the folder holds a run with other settings.
    """
    folder = _check_settings(cfg)
    _build_parts(cfg, folder, Processes(), select_device(cfg.trainer.device))
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

    The run's folder is made when all parts are built, so a mistake in the settings or the audio leaves no folder. Under
    torchrun this process is one of several that train together.

    Args:
        console, sinks, resume_command: See `build_trainer`.

    Raises:
        ValueError: A setting is invalid, or the folder holds a run with other settings.
    """
    folder = _check_settings(cfg)
    with process_group(select_device(cfg.trainer.device)) as (processes, device):
        trainer = build_trainer(cfg, folder, console, processes, device, sinks, resume_command)
        try:
            if processes.is_main:
                folder.mkdir(parents=True, exist_ok=True)
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
    parts = _build_parts(cfg, folder, processes, device)
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
            _store(cfg, folder, report=logger.message),
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


@dataclass(frozen=True)
class _Parts:
    """What a run is made of, as far as it needs no audio."""

    config: TrainingConfig
    codec: Codec
    adversarial: AdversarialTraining | None
    losses: Mapping[str, nn.Module]
    balancer: Balancer
    optimizer: Callable[..., torch.optim.Optimizer]
    sinks: Sequence[Sink]
    pretrained: Pretrained | None  # weights that codec and discriminator have been loaded with


def _build_parts(cfg: DictConfig, folder: Path, processes: Processes, device: torch.device | str) -> _Parts:
    """Creates and checks the parts; `folder` is read only."""
    config: TrainingConfig = instantiate(cfg.trainer, device=str(device))
    optimizer = _checked_optimizer(cfg, "codec")
    _checked_optimizer(cfg, "discriminator")
    with limit_to_free_memory():
        codec, adversarial = _build_networks(cfg, processes)
    losses, balancer = instantiate(cfg.losses.terms), instantiate(cfg.balancer)
    check_loss_names(losses, adversarial, balancer)
    check_parts(config.accumulate, cfg.data.batch_size, processes.world_size)
    check_windows(losses, adversarial, round(cfg.data.segment_seconds * codec.config.sample_rate))
    _check_validation(cfg, codec.config)
    check_freeze(cfg, config)
    pretrained = load_init_from(cfg, folder, codec, adversarial)
    if pretrained is not None:
        config = replace(config, init="random")  # the weights are trained already
    elif config.encoder_lr_factor == 0 and config.init == "random":
        raise ValueError(
            "trainer.encoder_lr_factor=0 would freeze an encoder of random weights: raise it, or set trainer.init=pca"
        )
    _store(cfg, folder)
    sinks = instantiate(cfg.logger.sinks)
    return _Parts(config, codec, adversarial, losses, balancer, optimizer, sinks, pretrained)


def select_device(requested: str) -> str:
    """The device to train on: `requested`, or for `auto` a GPU if there is one.

    Nothing is allocated: that would take memory on the first GPU in each of several processes.

    Raises:
        ValueError: The device is not available.
    """
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ValueError(f"trainer.device={requested} is not available: expected auto, cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"trainer.device={requested} is not available: {count} GPUs are visible; expected auto or cpu")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"trainer.device={requested} is not supported, because statistics need float64: expected auto, cpu or cuda"
        )
    return requested


def _build_networks(cfg: DictConfig, processes: Processes) -> tuple[Codec, AdversarialTraining | None]:
    """Codec and discriminator have separate seeds: the choice of discriminator does not change the codec's weights."""
    torch.manual_seed(cfg.seed)
    codec = instantiate(cfg.codec)
    torch.manual_seed(cfg.seed + 1)
    return codec, None if cfg.discriminator is None else instantiate(cfg.adversarial, processes=processes)


def _checked_optimizer(cfg: DictConfig, part: str) -> Callable[..., torch.optim.Optimizer]:
    """The function that makes an optimizer, once it has made one."""
    optimizer: Callable[..., torch.optim.Optimizer] = instantiate(cfg.optimizer[part])
    try:
        optimizer([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer.{part}: {error}") from error
    return optimizer


def _check_validation(cfg: DictConfig, codec: CodecConfig) -> None:
    for key, check in (
        ("bandwidth_kbps", lambda: codec.codebooks_for(float(cfg.validation.bandwidth_kbps))),
        ("metrics", lambda: check_packages(select_metrics(cfg.validation.metrics).values())),
        ("best", lambda: check_packages([BestScore.parse(cfg.validation.best).metric])),
    ):
        try:
            check()
        except ValueError as error:
            raise ValueError(f"validation.{key}: {error}") from error


def _build_validation(cfg: DictConfig, folder: Path, clips: Sequence[HeldOutClip]) -> Validation:
    settings = instantiate(cfg.validation)
    try:
        return Validation(clips, folder / "samples", **settings)
    except ValueError as error:  # a group that the held-out clips do not have
        raise ValueError(f"validation: {error}") from error


def _store(cfg: DictConfig, folder: Path, **arguments: Any) -> CheckpointStore:
    try:
        return CheckpointStore(folder / "checkpoints", **instantiate(cfg.checkpoints), **arguments)
    except ValueError as error:
        raise ValueError(f"checkpoints.{error}") from error


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
