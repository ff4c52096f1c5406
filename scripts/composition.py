"""Builds a training run from its configuration: every part is created here and handed to the trainer."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import hydra.utils
import torch
from omegaconf import DictConfig

from codec.config import CodecConfig
from codec.model import Codec
from codec.training import (
    AdversarialTraining,
    CheckpointError,
    CheckpointStore,
    RunLogger,
    Trainer,
    TrainingConfig,
    TrainingData,
    Validation,
)
from codec.training.checkpoint.pretrained import Pretrained, load_weights, read_pretrained
from codec.training.checks import check_loss_names, check_windows
from codec.training.distributed import Processes, process_group
from codec.training.logging.progress_bar import ProgressDisplay
from codec.training.logging.run_logger import Sink
from data import Corpus, HeldOutClip, held_out_clips, transformed
from scripts.run_folder import check_keys, claim_folder, resolve, save_config

__all__ = ["CONFIGS", "build_trainer", "instantiate", "open_run", "select_device"]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def instantiate(node: Any, **arguments: Any) -> Any:
    """The object that `_target_` names, created with the other settings of the node and with `arguments`."""
    return hydra.utils.instantiate(node, _convert_="all", **arguments)


@contextmanager
def open_run(cfg: DictConfig, console: TextIO | None = None, sinks: Sequence[Sink] = ()) -> Iterator[Trainer]:
    """A trainer that is ready to start or resume. Its logger is closed at the end; errors are written to log.txt.

    Under torchrun this process is one of several that train together.

    Args:
        console, sinks: See `build_trainer`.

    Raises:
        ValueError: A setting is invalid, or the folder holds a run with other settings.
    """
    check_keys(cfg)
    folder = claim_folder(cfg)
    try:
        with process_group(select_device(cfg.trainer.device)) as (processes, device):
            trainer = build_trainer(cfg, folder, console, processes, device, sinks)
            try:
                if processes.is_main:
                    save_config(cfg, folder / "config.yaml")
                yield trainer
            finally:
                trainer.logger.close()
    except Exception:
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        raise


def build_trainer(
    cfg: DictConfig,
    folder: Path,
    console: TextIO | None = None,
    processes: Processes | None = None,
    device: torch.device | str = "cpu",
    sinks: Sequence[Sink] = (),
) -> Trainer:
    """Creates all parts of a run. Parts that need no audio come first, so that a mistake is reported at once.

    Args:
        folder: The run's folder.
        console: Where progress is shown; standard output if None.
        processes: The processes that train together; this one alone if None.
        device: The device of this process.
        sinks: Receive metrics and audio, in addition to `logger.sinks` of the settings.
    """
    processes = processes or Processes()
    config: TrainingConfig = instantiate(cfg.trainer, device=str(device))
    codec, adversarial = _build_networks(cfg, processes)
    losses = instantiate(cfg.losses.terms)
    balancer = instantiate(cfg.balancer)
    optimizer = instantiate(cfg.optimizer.codec)
    sinks = [*sinks, *instantiate(cfg.logger.sinks)]
    bandwidth = _validation_bandwidth(cfg, codec.config)
    check_loss_names(losses, adversarial, balancer)
    check_windows(losses, adversarial, round(float(cfg.data.segment_seconds) * codec.config.sample_rate))
    pretrained = _load_init_from(cfg, folder, codec, adversarial)
    if pretrained is not None:
        config = replace(config, init="random")  # the weights are trained already
    elif config.encoder_lr_factor == 0 and config.init == "random":
        raise ValueError(
            "trainer.encoder_lr_factor=0 would freeze an encoder of random weights: raise it, or set trainer.init=pca"
        )
    with processes.main_process_first():
        corpus, data, clips = _build_data(cfg, codec.config, processes)
    config = config.in_steps(data.steps_per_epoch)

    logger = _build_logger(cfg, folder, config, console, sinks, processes)
    try:
        if processes.is_main:
            _log_skipped_files(corpus, logger)
        logger.message(
            f"{corpus.name}: {corpus.train.seconds / 60:.1f} min of training audio, {len(clips)} held-out clips; "
            f"{sum(p.numel() for p in codec.parameters()) / 1e6:.2f} M parameters in the codec"
        )
        store = CheckpointStore(folder / "checkpoints", **instantiate(cfg.checkpoints), report=logger.message)
        validation = Validation(
            clips, folder / "samples", bandwidth, cfg.validation.samples_per_group, cfg.validation.metrics
        )
        trainer = Trainer(
            codec, losses, adversarial, balancer, optimizer, config, data, validation, store, logger, processes
        )
        if pretrained is not None:
            trainer.average.load_state_dict(pretrained.state["average"])
            logger.message(f"starts with the weights of {pretrained.description}")
            if adversarial is not None and "adversarial" not in pretrained.state:
                logger.message("it has no discriminator; the discriminator starts with random weights")
        return trainer
    except BaseException:
        logger.close()
        raise


def select_device(requested: str) -> str:
    """The device to train on: `requested`, or for `auto` a GPU if there is one.

    Raises:
        ValueError: The device is not available.
    """
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=requested)
    except (RuntimeError, AssertionError) as error:  # AssertionError: this torch was built without CUDA
        raise ValueError(
            f"trainer.device={requested} is not available: expected auto, cpu or a device that torch can use here"
        ) from error
    return requested


def _build_networks(cfg: DictConfig, processes: Processes) -> tuple[Codec, AdversarialTraining | None]:
    """Codec and discriminator have separate seeds: the choice of discriminator does not change the codec's weights."""
    torch.manual_seed(cfg.seed)
    codec = instantiate(cfg.codec)
    torch.manual_seed(cfg.seed + 1)
    return codec, None if cfg.discriminator is None else instantiate(cfg.adversarial, processes=processes)


def _validation_bandwidth(cfg: DictConfig, codec: CodecConfig) -> float:
    """In kbps."""
    bandwidth = float(cfg.validation.bandwidth_kbps)
    try:
        codec.codebooks_for(bandwidth)
    except ValueError as error:
        raise ValueError(f"validation.bandwidth_kbps: {error}") from error
    return bandwidth


def _load_init_from(
    cfg: DictConfig, folder: Path, codec: Codec, adversarial: AdversarialTraining | None
) -> Pretrained | None:
    """Loads the weights of `init_from` into codec and discriminator; None if the run has none or is resumed."""
    # A run with its own checkpoint resumes from that; the run that it started from may have been deleted.
    if cfg.init_from is None or CheckpointStore(folder / "checkpoints").paths():
        return None
    try:
        pretrained = read_pretrained(Path(cfg.init_from))
        load_weights(pretrained.state, codec, adversarial)
    except (CheckpointError, ValueError) as error:
        raise ValueError(f"init_from={cfg.init_from}: {error}") from error
    return pretrained


def _build_data(
    cfg: DictConfig, codec: CodecConfig, processes: Processes
) -> tuple[Corpus, TrainingData, list[HeldOutClip]]:
    rate, channels = codec.sample_rate, codec.channels
    corpus: Corpus = instantiate(cfg.data.corpus)
    # Called here, because hydra would turn the manifest, a dataclass, into a config.
    dataset = instantiate(cfg.data.dataset, _partial_=True)(
        manifest=corpus.train,
        sample_rate=rate,
        channels=channels,
        segment_seconds=cfg.data.segment_seconds,
        seed=cfg.seed,
        source_weights=corpus.source_weights,
    )
    if cfg.data.transforms:
        dataset = transformed(dataset, instantiate(cfg.data.transforms), cfg.seed)
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


def _log_skipped_files(corpus: Corpus, logger: RunLogger) -> None:
    skipped = [(m.root, *entry) for m in (corpus.train, corpus.held_out) for entry in m.skipped_files]
    for root, path, reason in skipped:
        logger.skip_file(str(Path(root) / path), reason)
    if skipped:
        logger.message(f"skipped files: {len(skipped)}, listed in {logger.folder / 'skipped_files.txt'}")
