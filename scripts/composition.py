"""From a configuration to a run: the composition root, and the claim that a run has on its folder."""

import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from codec import Codec, CodecConfig
from codec.atomic_file import atomic_write
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
from codec.training.checkpoint.pretrained import Origin, read_origin, take_weights
from codec.training.checks import check_loss_names, check_windows
from codec.training.distributed import Processes, joined
from codec.training.logging.progress_bar import ProgressDisplay
from codec.training.logging.run_logger import Sink
from codec.training.logging.silent_logger import SilentLogger
from data import Corpus, HeldOutClip, SegmentDataset, held_out_clips

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

# The settings that are read one by one here. All others are arguments of some class, which refuses unknown names;
# in these places a misspelt one, in an experiment file for example, would just have no effect.
_KEYS = {
    "": (
        *("name", "runs_folder", "seed", "init_from", "codec", "discriminator", "adversarial", "losses", "balancer"),
        *("data", "optimizer", "trainer", "logger", "validation", "checkpoints"),
    ),
    "losses": ("terms", "adversarial", "weights"),
    "data": ("root", "corpus", "segment_seconds", "batch_size", "num_workers", "held_out"),
    "optimizer": ("codec", "discriminator"),
    "logger": ("sinks",),
    "validation": ("bandwidth_kbps", "samples_per_group"),
}

# What may differ when a run is resumed: how long it goes on, and what does not change its result.
CHANGEABLE_ON_RESUME = (
    "name",
    "runs_folder",
    *("trainer.max_steps", "trainer.max_epochs", "trainer.max_minutes"),
    *("trainer.log_every", "trainer.validate_every", "trainer.checkpoint_every"),
    "trainer.device",
    "trainer.rollback",
    "data.num_workers",
    "logger",
    "checkpoints",
)


def build(
    cfg: DictConfig,
    folder: Path,
    console: TextIO | None = None,
    processes: Processes | None = None,
    device: torch.device | str = "cpu",
    sinks: Sequence[Sink] = (),
) -> Trainer:
    """All parts of a run, put together. What can fail without audio is built before any audio is looked for.

    Args:
        console: Where progress is shown; standard output if None.
        processes: Those that train together; this one alone if None.
        device: Of this process.
        sinks: Where metrics and sounds go beside the configured places.
    """
    processes = processes or Processes()
    config: TrainingConfig = make(cfg.trainer, device=str(device))
    codec, adversarial = _players(cfg, processes)
    losses = make(cfg.losses.terms)
    balancer = make(cfg.balancer)
    optimizer = make(cfg.optimizer.codec)
    bandwidth = float(cfg.validation.bandwidth_kbps)
    try:
        codec.config.codebooks_for(bandwidth)
    except ValueError as error:
        raise ValueError(f"validation.bandwidth_kbps: {error}") from error
    sinks = [*sinks, *make(cfg.logger.sinks)]
    check_loss_names(losses, adversarial, balancer)
    check_windows(losses, adversarial, round(float(cfg.data.segment_seconds) * codec.config.sample_rate))
    origin = _origin(cfg, folder, codec, adversarial)
    if origin is not None:
        config = replace(config, init="random")  # no first weights: these are trained ones
    elif config.encoder_lr_factor == 0 and config.init == "random":
        raise ValueError("an encoder of random weights would never learn: raise trainer.encoder_lr_factor above 0")

    with processes.main_process_first():
        corpus, data, clips = _read_data(cfg, codec.config, processes)
    config = config.in_steps(data.steps_per_epoch)
    logger: RunLogger | SilentLogger = SilentLogger(folder)
    if processes.is_main:
        display = ProgressDisplay(
            config.max_steps, None if config.max_minutes is None else 60 * config.max_minutes, console
        )
        logger = RunLogger(folder, sinks, display, resolved(cfg))
    try:
        if processes.is_main:
            _name_rejected(corpus, logger)
        logger.message(
            f"{corpus.name}: {corpus.train.seconds / 60:.1f} min to train on, {len(clips)} held-out clips; "
            f"{sum(p.numel() for p in codec.parameters()) / 1e6:.2f} M parameters in the codec"
        )
        store = CheckpointStore(folder / "checkpoints", **make(cfg.checkpoints), report=logger.message)
        validation = Validation(clips, folder / "samples", bandwidth, cfg.validation.samples_per_group)
        trainer = Trainer(
            codec, losses, adversarial, balancer, optimizer, config, data, validation, store, logger, processes
        )
        if origin is not None:
            trainer.average.load_state_dict(origin.state["average"])
            logger.message(f"starts with the weights of {origin.description}")
            if adversarial is not None and "adversarial" not in origin.state:
                logger.message("no discriminator came with them: it starts afresh")
        return trainer
    except BaseException:
        logger.close()
        raise


def _players(cfg: DictConfig, processes: Processes) -> tuple[Codec, AdversarialTraining | None]:
    """Each has its own seed, so that another discriminator leaves the codec's first weights as they were."""
    torch.manual_seed(cfg.seed)
    codec = make(cfg.codec)
    torch.manual_seed(cfg.seed + 1)
    return codec, None if cfg.discriminator is None else make(cfg.adversarial, processes=processes)


def _origin(cfg: DictConfig, folder: Path, codec: Codec, adversarial: AdversarialTraining | None) -> Origin | None:
    """What this run starts from, once codec and discriminator have its weights."""
    # A run with a checkpoint of its own goes on from that, and the other run may be gone.
    if cfg.init_from is None or CheckpointStore(folder / "checkpoints").paths():
        return None
    try:
        origin = read_origin(Path(cfg.init_from))
        take_weights(origin.state, codec, adversarial)
    except (CheckpointError, ValueError) as error:
        raise ValueError(f"init_from={cfg.init_from}: {error}") from error
    return origin


def _name_rejected(corpus: Corpus, logger: RunLogger | SilentLogger) -> None:
    rejected = [(m.root, *entry) for m in (corpus.train, corpus.held_out) for entry in m.skipped_files]
    for root, path, reason in rejected:
        logger.skip_file(str(Path(root) / path), reason)
    if rejected:
        logger.message(f"files set aside: {len(rejected)}, listed in {logger.folder / 'skipped_files.txt'}")


def make(node: Any, **extra: Any) -> Any:
    return instantiate(node, _convert_="all", **extra)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def select_device(requested: str) -> str:
    """The device to train on, after a look whether it is there."""
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=requested)
    except (RuntimeError, AssertionError) as error:  # AssertionError: this torch was built without CUDA
        raise ValueError(f"trainer.device must be auto, cpu or a device torch can use here, got {requested}") from error
    return requested


def _read_data(
    cfg: DictConfig, codec: CodecConfig, processes: Processes
) -> tuple[Corpus, TrainingData, list[HeldOutClip]]:
    rate, channels = codec.sample_rate, codec.channels
    corpus: Corpus = make(cfg.data.corpus)
    dataset = SegmentDataset(
        corpus.train,
        rate,
        channels,
        seed=cfg.seed,
        source_weights=corpus.source_weights,
        segment_seconds=cfg.data.segment_seconds,
    )
    clips = held_out_clips(corpus.held_out, rate, channels, **make(cfg.data.held_out))
    data = TrainingData(dataset, cfg.data.batch_size, cfg.data.num_workers, processes.rank, processes.world_size)
    return corpus, data, clips


def check_keys(cfg: DictConfig) -> None:
    """Refuses settings that nothing would read.

    Raises:
        ValueError: Names the first of them, and what there is in its place.
    """
    for path, wanted in _KEYS.items():
        for key in OmegaConf.select(cfg, path) if path else cfg:
            if key not in wanted:
                setting = f"{path}.{key!s}".lstrip(".")
                raise ValueError(f"there is no setting {setting}, only {', '.join(wanted)}")
    if OmegaConf.is_missing(cfg.data, "root"):  # else data.corpus.root, which refers to it, would be asked for
        raise ValueError("data.root has no default: give data.root=...")


def claim_folder(cfg: DictConfig) -> Path:
    """Makes the run's folder, or makes sure that the run in it is this one.

    Raises:
        ValueError: There is no name, or its folder holds a run with other settings; names the first that differ.
    """
    if OmegaConf.is_missing(cfg, "name") or not str(cfg.name or "").strip():
        raise ValueError("the run needs a name: name=something, or an experiment, which has one")
    folder = Path(cfg.runs_folder) / str(cfg.name)
    if folder.resolve().parent != Path(cfg.runs_folder).resolve():
        raise ValueError(f"name must be that of a folder in {cfg.runs_folder}, got {str(cfg.name)!r}")
    check_unchanged(folder, folder / "config.yaml", cfg, CHANGEABLE_ON_RESUME)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_unchanged(folder: Path, path: Path, cfg: DictConfig, free: Collection[str]) -> None:
    """Makes sure that what `folder` holds has the settings of `cfg`, but for those in `free`.

    Args:
        path: Where its settings are; without that file it may have any.

    Raises:
        ValueError: Names the first settings that differ.
    """
    if not path.exists():
        return
    differing = differences(OmegaConf.to_container(OmegaConf.load(path)), resolved(cfg), free)
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing[:3])}"
            f"{'; ...' if len(differing) > 3 else ''}): choose another name=, or move that folder away"
        )


def save_config(cfg: DictConfig, path: Path) -> None:
    """Only for what could be built: a mistake that is mended must find its folder free."""
    with atomic_write(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(resolved(cfg))), encoding="utf-8")


def differences(before: Any, now: Any, free: Collection[str], path: str = "") -> list[str]:
    """What two resolved configurations do not have in common, but for the settings in `free`; one phrase each."""
    if path in free:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        inner = (differences(before.get(k), now.get(k), free, f"{path}.{k}" if path else str(k)) for k in keys)
        return [difference for each in inner for difference in each]
    return [] if before == now else [f"{path} was {before}, is {now}"]


@contextmanager
def open_run(cfg: DictConfig, console: TextIO | None = None, sinks: Sequence[Sink] = ()) -> Iterator[Trainer]:
    """A run in its folder, ready to begin or to go on; its record is closed at the end, and errors go to log.txt.

    Started by torchrun, this process is one of several that train it together.

    Args:
        console, sinks: See `build`.

    Raises:
        ValueError: As `check_keys`, `claim_folder` and the parts of the run.
    """
    check_keys(cfg)
    folder = claim_folder(cfg)
    try:
        with joined(select_device(cfg.trainer.device)) as (processes, device):
            trainer = build(cfg, folder, console, processes, device, sinks)
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
