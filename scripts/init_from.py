"""Starts a run with trained weights: `init_from`, `init_from_parts` and `trainer.freeze`."""

from pathlib import Path

from omegaconf import DictConfig

from codec.model import Codec
from codec.training import AdversarialTraining, CheckpointError, CheckpointStore, RunLogger, TrainingConfig
from codec.training.checkpoint.pretrained import Pretrained, load_parts, load_weights, read_pretrained

__all__ = ["check_freeze", "load_init_from", "log_pretrained"]


def check_freeze(cfg: DictConfig, config: TrainingConfig) -> None:
    """Checks that frozen parts are trained already. `init=pca` trains an encoder.

    Raises:
        ValueError: A part of `trainer.freeze` would keep random weights.
    """
    loaded = [] if cfg.init_from is None else cfg.init_from_parts
    given = {"encoder"} if config.init == "pca" else set()
    missing = [] if loaded is None else [part for part in config.freeze if part not in given | set(loaded)]
    if missing:
        where = "init_from_parts" if cfg.init_from is not None else "init_from"
        raise ValueError(f"trainer.freeze would keep random weights in the {missing[0]}: set {where} to load it")


def load_init_from(
    cfg: DictConfig, folder: Path, codec: Codec, adversarial: AdversarialTraining | None
) -> Pretrained | None:
    """Loads the weights of `init_from` into codec and discriminator; None if the run has none or is resumed.

    Raises:
        ValueError: There are no such weights, or they do not fit.
    """
    # A run with its own checkpoint resumes from that; the run that it started from may have been deleted.
    if cfg.init_from is None and cfg.init_from_parts is not None:
        raise ValueError("init_from_parts names parts of a trained codec: set init_from as well")
    if cfg.init_from is None or CheckpointStore(folder / "checkpoints").paths():
        return None
    try:
        pretrained = read_pretrained(Path(cfg.init_from))
        if cfg.init_from_parts is None:
            load_weights(pretrained.state, codec, adversarial)
            if "encoder" in cfg.trainer.freeze:  # with the weights that the run there exports
                load_parts(pretrained.state, codec, adversarial, ["encoder"])
        else:
            load_parts(pretrained.state, codec, adversarial, list(cfg.init_from_parts))
    except (CheckpointError, ValueError) as error:
        raise ValueError(f"init_from={cfg.init_from}: {error}") from error
    return pretrained


def log_pretrained(
    cfg: DictConfig, pretrained: Pretrained, adversarial: AdversarialTraining | None, logger: RunLogger
) -> None:
    """Says in the log what the run starts with."""
    if cfg.init_from_parts is not None:
        logger.message(f"starts with {', '.join(cfg.init_from_parts)} of {pretrained.description}; the rest is random")
        return
    logger.message(f"starts with the weights of {pretrained.description}")
    if adversarial is not None and "adversarial" not in pretrained.state:
        logger.message("it has no discriminator; the discriminator starts with random weights")
