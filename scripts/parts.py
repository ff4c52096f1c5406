"""The parts of a run that need no audio: networks, losses, balancer, optimizer and trained weights to start from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from omegaconf import DictConfig
from torch import nn

from balancer import Balancer
from codec.config import CodecConfig
from codec.evaluation import check_packages, select_metrics
from codec.model import Codec
from codec.training import AdversarialTraining, TrainingConfig
from codec.training.best_score import BestScore
from codec.training.checkpoint.pretrained import Pretrained
from codec.training.checks import check_loss_names, check_parts, check_windows
from codec.training.distributed import Processes
from codec.training.logging.run_logger import Sink
from codec.training.startup.memory_limit import limit_to_free_memory
from scripts.init_from import check_freeze, load_init_from

__all__ = ["Parts", "build_parts", "instantiate"]


def instantiate(node: Any, **arguments: Any) -> Any:
    """The object that `_target_` names, created with the other settings of the node and with `arguments`."""
    return hydra.utils.instantiate(node, _convert_="all", **arguments)


@dataclass(frozen=True)
class Parts:
    """What a run is made of, except for what reads audio."""

    config: TrainingConfig
    codec: Codec
    adversarial: AdversarialTraining | None
    losses: Mapping[str, nn.Module]
    balancer: Balancer
    optimizer: Callable[..., torch.optim.Optimizer]
    sinks: Sequence[Sink]
    pretrained: Pretrained | None  # weights that codec and discriminator have been loaded with


def build_parts(cfg: DictConfig, folder: Path, processes: Processes, device: torch.device | str) -> Parts:
    """Creates and checks the parts; `folder` is read only.

    Raises:
        ValueError: A setting is out of range, or the parts do not fit each other.
    """
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
    sinks = instantiate(cfg.logger.sinks)
    return Parts(config, codec, adversarial, losses, balancer, optimizer, sinks, pretrained)


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
