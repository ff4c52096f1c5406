"""A complete training run whose steps take milliseconds: tones and noise, and a codec of four filters."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from balancer import Balancer, EmaNorm, Keep, Static, Sum
from codec.audio import write_audio
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
from codec_inputs import seanet_codec
from data import Batch, HeldOutClip, SegmentDataset, scan_folder
from losses import L1, AdversarialLoss, MultiScaleMel, MultiScaleSTFTDiscriminator

RATE = 8000
SAMPLES = 1600
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))
ADVERSARIAL = {"adversarial": 1.0, "feature_matching": 2.0}


def tiny_codec(seed: int = 0, **config: Any) -> Codec:
    """Four codebooks of 16 codes at 0.8 kbps each; 40 frames per segment."""
    settings: dict[str, Any] = {
        "sample_rate": RATE, "filters": 4, "strides": [5, 8], "latent_dim": 16, "lstm_layers": 0,
        "padding": "constant", "num_codebooks": 4, "codebook_size": 16, "bandwidths_kbps": [0.8, 1.6, 3.2],
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return seanet_codec(**{"decay": 0.9, "dead_code_threshold": 0.0} | settings | config)


def tiny_adversarial(
    seed: int = 1, optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = ADAM, **settings: Any
) -> AdversarialTraining:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AdversarialTraining(
            MultiScaleSTFTDiscriminator(filters=2, windows=[64, 32]), AdversarialLoss(), optimizer, **settings
        )


def plain_losses() -> dict[str, nn.Module]:
    return {"l1": L1(), "mel": MultiScaleMel(RATE, [5, 6], mels=16)}


def tiny_balancer(weights: Mapping[str, float], encodec: bool = False, monitor_every: int = 4) -> Balancer:
    return Balancer(weights, EmaNorm(0.9) if encodec else Static(), Sum(), Keep(), monitor_every)


def tones(count: int, samples: int, seed: int = 0) -> Tensor:
    """Signals of two partials and a little noise. Shape: -> [count, 1, samples]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / RATE
    pitch = 150 + 600 * torch.rand(count, 1, 1, generator=generator)
    noise = torch.randn(count, 1, samples, generator=generator)
    phase = 2 * math.pi * pitch * time
    return 0.4 * phase.sin() + 0.2 * (3 * phase).sin() + 0.02 * noise


def tiny_data(folder: Path, seed: int = 0, workers: int = 0) -> TrainingData:
    """Batches of two segments from four files of one second."""
    if not folder.exists():
        for number, audio in enumerate(tones(4, RATE)):
            write_audio(folder / f"{number}.wav", audio, RATE)
    dataset = SegmentDataset(scan_folder(folder), RATE, 1, SAMPLES / RATE, seed)
    return TrainingData(dataset, batch_size=2, num_workers=workers)


def tiny_trainer(
    folder: Path,
    *,
    codec: Codec | None = None,
    losses: Mapping[str, nn.Module] | None = None,
    weights: Mapping[str, float] | None = None,
    adversarial: AdversarialTraining | None = None,
    encodec: bool = False,
    monitor_every: int = 4,
    workers: int = 0,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = ADAM,
    **config: Any,
) -> Trainer:
    """A run in `folder / "run"` on the audio in `folder / "audio"`; `messages` returns its messages.

    Args:
        weights: 1 for each loss, and `ADVERSARIAL`, if None.
        encodec: Uses EnCodec's balancer instead of a weighted sum.
        config: Settings of `TrainingConfig`, by default six steps in float32.
    """
    losses = plain_losses() if losses is None else losses
    if weights is None:
        weights = dict.fromkeys(losses, 1.0) | (ADVERSARIAL if adversarial is not None else {})
    limits = {"max_steps", "max_epochs", "max_minutes"} & config.keys()
    settings: dict[str, Any] = (
        {"precision": "float32", "ema_decay": 0.9} | ({} if limits else {"max_steps": 6}) | config
    )
    logger = RecordingLogger(folder / "run")
    clips = [HeldOutClip(name, name, audio) for name, audio in zip(("speech", "music"), tones(2, 3200, 9), strict=True)]
    return Trainer(
        codec or tiny_codec(),
        losses,
        adversarial,
        tiny_balancer(weights, encodec, monitor_every),
        optimizer,
        TrainingConfig(**settings),
        tiny_data(folder / "audio", settings.get("seed", 0), workers),
        Validation(clips, folder / "run" / "samples", bandwidth_kbps=3.2),
        CheckpointStore(folder / "run" / "checkpoints", report=logger.message),
        logger,
    )


class RecordingLogger(RunLogger):
    """Stores its messages. The class stores all loggers, so that `tidied` can close them."""

    opened: ClassVar[list["RecordingLogger"]] = []

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.messages: list[str] = []
        self.opened.append(self)

    def message(self, text: str) -> None:
        super().message(text)
        self.messages.append(text)


@contextmanager
def tidied() -> Iterator[None]:
    """Closes all loggers at the end."""
    try:
        yield
    finally:
        while RecordingLogger.opened:
            RecordingLogger.opened.pop().close()


def initialized(codec: Codec) -> Codec:
    """The codec with codebooks initialized from random vectors."""
    codec.quantizer.initialize(torch.randn(256, 16, generator=torch.Generator().manual_seed(3)) * 0.1)
    return codec


def take_steps(trainer: Trainer, count: int) -> list[dict[str, Tensor]]:
    """Runs steps without the rest of `run`; returns the metrics of each."""
    metrics = []
    for _ in range(count):
        metrics.append(trainer.train_step(trainer.data.batch(trainer.step)))
        trainer.step += 1
    return metrics


def interrupt_at(trainer: Trainer, step: int) -> None:
    """Makes `run` raise KeyboardInterrupt before `step`."""
    receive = trainer._receive

    def stop(batch: Batch) -> Tensor:
        if trainer.step == step:
            raise KeyboardInterrupt
        return receive(batch)

    setattr(trainer, "_receive", stop)  # noqa: B010 (mypy refuses to assign methods)


def messages(trainer: Trainer) -> list[str]:
    assert isinstance(trainer.logger, RecordingLogger)
    return trainer.logger.messages


def metric_lines(trainer: Trainer, split: str = "train", without: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The records of one split in metrics.jsonl."""
    text = trainer.logger.metrics_path.read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in r.items() if k not in without} for r in records if r["split"] == split]


def exported(folder: Path) -> bytes:
    """The exported model's file."""
    return (folder / "model.safetensors").read_bytes()


class Faulty(nn.Module):
    """L1 that fails in chosen calls, counted from 0: `value` multiplies the loss, `gradient` makes its gradient NaN."""

    def __init__(self, value: Mapping[int, float] | None = None, gradient: Iterable[int] = ()) -> None:
        super().__init__()
        self.value = value or {}
        self.gradient = set(gradient)
        self.calls = 0

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        loss = (estimate - reference).abs().mean()
        if not estimate.requires_grad:  # validation
            return loss
        loss = loss * self.value.get(self.calls, 1.0)
        if self.calls in self.gradient:
            # The value is 0, and the gradient infinity times 0.
            loss = loss + (0 * estimate).abs().sqrt().sum()
        self.calls += 1
        return loss


def copied(state: Any) -> Any:
    """A deep copy of a state."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [copied(value) for value in state]
    return state


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Paths at which two states differ in any bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        same = same and first.detach().numpy().tobytes() == second.detach().numpy().tobytes()
        return [] if same else [where]
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if list(first) != list(second):
            return [where]
        return [place for name in first for place in differences(first[name], second[name], f"{where}/{name}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [where]
        pairs = enumerate(zip(first, second, strict=True))
        return [place for index, pair in pairs for place in differences(*pair, f"{where}/{index}")]
    return [] if type(first) is type(second) and first == second else [where]
