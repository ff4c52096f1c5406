"""Trains a codec: the composition root, the only place where the configuration is read.

python -m scripts.train [group=name ...] [path.to.key=value ...]

Exit status: 0, 1 (one line on standard error says why), 2 (usage), 130 (stopped by the user). With HYDRA_FULL_ERROR=1
in the environment an error comes with its traceback, which is in the run's log.txt in any case.
"""

import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from codec import CodecConfig
from codec.evaluation.report import write_report
from codec.training import (
    Adversary,
    Budget,
    CheckpointStore,
    Plan,
    RunLogger,
    Trainer,
    TrainingData,
    Validation,
)
from codec.training.compatibility import check_loss_names, check_windows
from codec.training.memory import keep_freed_memory
from codec.training.progress import ProgressDisplay
from data import Corpus, HeldOutClip, SegmentDataset, held_out_clips

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"

# The settings that are read one by one here. All others are arguments of some class, which refuses unknown names;
# in these places a misspelt one, in an experiment file for example, would just have no effect.
_KEYS = {
    "": (
        *("name", "runs_folder", "seed", "codec", "discriminator", "adversary", "losses", "balancer", "data"),
        *("optimizer", "trainer", "logger", "validation", "checkpoints"),
    ),
    "losses": ("terms", "adversarial", "weights"),
    "data": ("root", "corpus", "segments", "batch_size", "workers", "held_out"),
    "optimizer": ("codec", "discriminator"),
    "logger": ("sinks",),
    "validation": ("bandwidth_kbps", "samples_per_group"),
}

# Errors whose message says enough without their type.
_WELL_SAID = (ValueError, TypeError, OSError, RuntimeError, ImportError, HydraException, OmegaConfBaseException)

# What may differ when a run is resumed: how long it goes on, and what does not change its result.
_FREE_TO_CHANGE = (
    "name",
    "runs_folder",
    "trainer.budget",
    "trainer.cadence",
    "trainer.device",
    "data.workers",
    "logger",
    "checkpoints",
)


def build(cfg: DictConfig, folder: Path) -> Trainer:
    """All parts of a run, put together. What can fail without audio is built before any audio is looked for."""
    plan: Plan = _make(cfg.trainer, device=_device(cfg.trainer.device))
    # Each player has its own seed, so that another discriminator leaves the codec's first weights as they were.
    torch.manual_seed(cfg.seed)
    codec = _make(cfg.codec)
    torch.manual_seed(cfg.seed + 1)
    adversary: Adversary | None = None if cfg.discriminator is None else _make(cfg.adversary)
    losses = _make(cfg.losses.terms)
    balancer = _make(cfg.balancer)
    optimizer = _make(cfg.optimizer.codec)
    bandwidth = float(cfg.validation.bandwidth_kbps)
    try:
        codec.config.codebooks_for(bandwidth)
    except ValueError as error:
        raise ValueError(f"validation.bandwidth_kbps: {error}") from error
    sinks = _make(cfg.logger.sinks)
    check_loss_names(losses, adversary, balancer)
    check_windows(losses, adversary, round(float(cfg.data.segments.segment_seconds) * codec.config.sample_rate))

    corpus, data, clips = _read_data(cfg, codec.config)
    logger = _open_logger(cfg, folder, sinks, plan.budget.in_steps(data.steps_per_epoch))
    try:
        for manifest in (corpus.train, corpus.held_out):
            for path, reason in manifest.set_aside:
                logger.set_aside(str(Path(manifest.root) / path), reason)
        logger.message(
            f"{corpus.name}: {corpus.train.seconds / 60:.1f} min to train on, {len(clips)} held-out clips; "
            f"{sum(p.numel() for p in codec.parameters()) / 1e6:.2f} M parameters in the codec"
        )
        store = CheckpointStore(folder / "checkpoints", **_make(cfg.checkpoints), report=logger.message)
        validation = Validation(clips, folder / "samples", bandwidth, cfg.validation.samples_per_group)
        return Trainer(codec, losses, adversary, balancer, optimizer, plan, data, validation, store, logger)
    except BaseException:
        logger.close()
        raise


def _open_logger(cfg: DictConfig, folder: Path, sinks: list[Any], budget: Budget) -> RunLogger:
    display = ProgressDisplay(budget.steps, None if budget.minutes is None else 60 * budget.minutes)
    return RunLogger(folder, sinks, display, _resolved(cfg))


def _make(node: Any, **extra: Any) -> Any:
    return instantiate(node, _convert_="all", **extra)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def _device(requested: str) -> str:
    """The device to train on, after a look whether it is there."""
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=requested)
    except (RuntimeError, AssertionError) as error:  # AssertionError: this torch was built without CUDA
        raise ValueError(f"trainer.device must be auto, cpu or a device torch can use here, got {requested}") from error
    return requested


def _read_data(cfg: DictConfig, codec: CodecConfig) -> tuple[Corpus, TrainingData, list[HeldOutClip]]:
    rate, channels = codec.sample_rate, codec.channels
    corpus: Corpus = _make(cfg.data.corpus)
    dataset = SegmentDataset(
        corpus.train, rate, channels, seed=cfg.seed, source_weights=corpus.source_weights, **_make(cfg.data.segments)
    )
    clips = held_out_clips(corpus.held_out, rate, channels, **_make(cfg.data.held_out))
    return corpus, TrainingData(dataset, cfg.data.batch_size, cfg.data.workers), clips


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
    path = folder / "config.yaml"
    if path.exists():
        differing = _differences(OmegaConf.to_container(OmegaConf.load(path)), _resolved(cfg))
        if differing:
            raise ValueError(
                f"{folder} holds a run with other settings ({'; '.join(differing[:3])}"
                f"{'; ...' if len(differing) > 3 else ''}): choose another name=, or move that folder away"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _keep_config(cfg: DictConfig, folder: Path) -> None:
    """Only for a run that could be built: a mistake that is mended must find its folder free."""
    beside = folder / "config.yaml.part"
    beside.write_text(OmegaConf.to_yaml(OmegaConf.create(_resolved(cfg))), encoding="utf-8")
    beside.replace(folder / "config.yaml")


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if path in _FREE_TO_CHANGE:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        inner = (_differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key)) for key in keys)
        return [difference for each in inner for difference in each]
    return [] if before == now else [f"{path} was {before}, is {now}"]


def run(cfg: DictConfig) -> None:
    """Trains, then writes the report and says where everything is."""
    check_keys(cfg)
    folder = claim_folder(cfg)
    try:
        trainer = build(cfg, folder)
        _keep_config(cfg, folder)
        try:
            scores = trainer.run()
        finally:
            trainer.logger.close()
    except Exception:
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        raise
    report = write_report(folder)
    print(f"\nTrained for {trainer.step} steps, {trainer.seconds / 60:.1f} min.")
    for label, path in (
        ("model", folder / "model.safetensors"),
        ("checkpoints", trainer.store.folder),
        ("samples", folder / "samples"),
        ("report", report),
    ):
        print(f"  {label:<12} {path}")
    print(f"Held-out scores at {cfg.validation.bandwidth_kbps:g} kbps:")
    for name, value in scores.items():
        if not name.startswith("codebook/"):
            print(f"  {name:<24} {value:8.3f}")
    print(f"Use it:  codec encode in.wav out.ecdc --checkpoint {folder}")


def explain(error: Exception) -> str:
    """One line on what was wanted and what was got; Hydra's own messages take several."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={name}: wanted one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"wanted group=name or path.to.key=value, got {error.override!r}"
    cause: BaseException = error
    while isinstance(cause, HydraException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        beside = ", ".join(str(key) for key in cause.parent_node if key != "hydra")
        return f"there is no setting {cause.full_key}, only {beside}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no default: give {cause.full_key}=..."
    text = " ".join(str(cause).split())
    if "Config group override" in text:
        return "a group wants the name of a file in its folder, got null: to leave an experiment out, experiment=none"
    if not isinstance(cause, _WELL_SAID):
        text = f"{type(cause).__name__}: {text}"
    place = re.search(r"full_key: (\S+)", str(error))
    return f"{text} (in {place[1]})" if place else text


def compose() -> list[DictConfig]:
    """The configuration that the command line asks for; several with --multirun, none with --help.

    The work is done outside of Hydra, which has several lines of its own to say when a job fails.
    """
    composed: list[DictConfig] = []

    @hydra.main(version_base="1.3", config_path=str(_CONFIGS), config_name="train")
    def keep(cfg: DictConfig) -> None:
        composed.append(cfg)

    keep()
    return composed


def main() -> None:
    """The command; see the head of this file."""
    in_full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises what it would else print in its own way
    try:
        keep_freed_memory()
        for cfg in compose():
            run(cfg)
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if in_full:
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
