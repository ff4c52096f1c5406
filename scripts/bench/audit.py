"""Counts kernel launches and waits for the device in training steps, on a pretended CUDA device. It needs no GPU.

python -m scripts.bench.audit EXPERIMENT [--steps N] [--launches N] [overrides ...]

An operation of torch counts as one launch, and the layers of an LSTM as those of the CPU. So the count is an estimate.
Waits are exact as far as tests/support/pretended_device.py knows torch. Networks are narrow by default: their width
changes neither count.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from codec.training import Trainer
from scripts.composition import CONFIGS, build_trainer

__all__ = ["audited_trainer", "launches_by_part", "main", "take_step"]

_ROOT = Path(__file__).resolve().parents[2]
_SMALL = (
    "data=clips",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.held_out.clips_per_source=1",
    "data.held_out.seconds=1.0",
    "trainer.codebooks.init_batches=2",
    "name=audit",
)
_NARROW = {  # of those, the ones that the experiment has
    "codec.network.filters": 4,
    "codec.network.encoder_width": 20,
    "codec.network.decoder_width": 20,
    "codec.network.latent_dim": 16,
    "discriminator.filters": 4,
}
# Start of a path -> the part of a step that its lines belong to; the first that fits. A gradient counts where it is
# asked for: that of a discriminator at the audio is one of the balancer's.
_PARTS = {
    "codec/network/": "codec, forward",
    "codec/training/accumulation.py": "codec, backward",
    "codec/quantization/": "codebooks",
    "losses/discriminators/": "discriminator, forward",
    "codec/training/adversarial.py": "discriminator, update",
    "losses/": "losses",
    "balancer/": "balancer, with the gradients of the losses",
    "": "optimizer, average, metrics",
}

_T = TypeVar("_T")


@contextmanager
def audited_trainer(
    experiment: str, overrides: Sequence[str], device: str = "cuda", narrow: bool = False
) -> Iterator[Trainer]:
    """A trainer of the experiment with small batches, whose codebooks are initialized.

    Args:
        narrow: Whether networks have few channels, unless the overrides say how many.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = [f"experiment={experiment}", *_SMALL]
        cfg = compose("train", [*settings, *overrides])
        if narrow:
            known = [f"{key}={width}" for key, width in _NARROW.items() if OmegaConf.select(cfg, key) is not None]
            cfg = compose("train", [*settings, *known, *overrides])
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        trainer = build_trainer(cfg, Path(folder), console=nowhere, device=device)
        try:
            trainer.startup.check_precision(trainer.adversarial, trainer.step)
            trainer._initialize_codebooks()
            yield trainer
        finally:
            trainer.logger.close()


def take_step(trainer: Trainer) -> None:
    """A step as `Trainer.run` takes it, from the batch to the metrics."""
    begun = time.monotonic()
    trainer._freeze_encoder()
    trainer._initialize_codebooks()
    batch = next(trainer.data.batches(trainer.step))
    trainer.meters.add(trainer.train_step(trainer._receive(batch)), begun)
    trainer.step += 1


def launches_by_part(launches: Mapping[str, int]) -> dict[str, int]:
    """Sums of the launches of a step by its parts, from those by line."""
    counts = dict.fromkeys(_PARTS.values(), 0)
    for place, count in launches.items():
        counts[next(part for start, part in _PARTS.items() if place.startswith(start))] += count
    return counts


def _audit(log: Any, name: str, action: Callable[[], _T], launches: int) -> _T:
    log.clear()
    result = action()
    print(f"{name}: {sum(log.launches.values())} launches, {sum(log.waits.values())} waits", flush=True)
    for place, count in sorted(log.waits.items()):
        print(f"  {count:5d} waits     {place}")
    if launches:
        for part, count in launches_by_part(log.launches).items():
            print(f"  {count:5d} launches  {part}")
    for place, count in log.launches.most_common(launches):
        print(f"  {count:5d} launches  {place}")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.audit", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("experiment")
    parser.add_argument("--steps", type=int, default=4, help="%(default)s")
    parser.add_argument("--launches", type=int, default=0, help="also list the parts, and the N lines with the most")
    parser.add_argument("--full-width", action="store_true", help="networks of the experiment's own width")
    parser.add_argument("overrides", nargs="*", help="overrides of the training configuration")
    options = parser.parse_intermixed_args(arguments)
    sys.path.append(str(_ROOT / "tests" / "support"))
    from pretended_device import pretended_cuda

    torch.set_num_threads(1)
    narrow = not options.full_width
    with pretended_cuda() as log, audited_trainer(options.experiment, options.overrides, narrow=narrow) as trainer:
        for _ in range(options.steps):
            _audit(log, f"step {trainer.step}", lambda: take_step(trainer), options.launches)
        _audit(log, "validation", trainer.validate, 0)
        _audit(log, "log", trainer._log, 0)


if __name__ == "__main__":
    main()
