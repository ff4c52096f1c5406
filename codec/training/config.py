"""The settings of a run that belong to no single part: budget, schedules, cadence, precision, seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from codec.config import CodecConfig

__all__ = ["Budget", "Cadence", "CodebookPlan", "DoctorPlan", "LearningRate", "Plan"]


@dataclass(frozen=True)
class Budget:
    """How long a run goes on; exactly one of the three is given.

    Only `steps` and `epochs` make a run repeatable to the bit, since under `minutes` the schedules follow the clock.

    Args:
        steps: Optimizer steps.
        epochs: Passes over the training audio, in whole steps.
        minutes: Training time, interruptions not counted.

    Raises:
        ValueError: None or several are given, or one is not positive.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in vars(self).items() if v is not None}
        if not all(isinstance(v, int | float) for v in given.values()):
            raise ValueError(f"a budget is a number, got {given}")
        if len(given) != 1 or not min(given.values()) > 0:
            raise ValueError(f"a budget is one positive number of steps, epochs or minutes; got {given or 'none'}")

    def in_steps(self, steps_per_epoch: float) -> "Budget":
        """The same budget with epochs turned into steps."""
        return self if self.epochs is None else Budget(steps=max(1, math.ceil(self.epochs * steps_per_epoch)))

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent; 1 or more when it is used up."""
        if self.steps is not None:
            return step / self.steps
        if self.minutes is not None:
            return seconds / (60 * self.minutes)
        raise ValueError("a budget in epochs has no progress before in_steps")


@dataclass(frozen=True)
class LearningRate:
    """Factor of the learning rate over the run.

    Args:
        warmup: Share of the run over which the factor rises linearly to 1.
        decay: `none`, `linear` or `cosine` from the end of the warm-up to the end of the run.
        final: Factor at the end of a decay.

    Raises:
        ValueError: A value is out of range.
    """

    warmup: float = 0.0
    decay: Literal["none", "linear", "cosine"] = "none"
    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be a share of the run in [0, 1), got {self.warmup}")
        if self.decay not in ("none", "linear", "cosine"):
            raise ValueError(f"decay must be none, linear or cosine, got {self.decay!r}")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must be a factor in [0, 1], got {self.final}")

    def factor(self, progress: float) -> float:
        """Factor at `progress` in [0, 1] of the run; never 0 during the warm-up, so that no step is lost."""
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        if self.decay == "none":
            return 1.0
        share = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        left = 1 - share if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * share))
        return self.final + (1 - self.final) * left


@dataclass(frozen=True)
class CodebookPlan:
    """How the codebooks take part in training.

    Args:
        start: Share of the run before which latents pass through unquantized. k-means on the latents of an untrained
            encoder, which hardly vary yet, leaves only a handful of codes in use.
        start_batches: Batches that the k-means start sees, and first weights that depend on the audio.
        dropout: `none` always uses all books; `books` draws their number uniformly from 1 to K for each batch
            (audiocraft); `bandwidths` draws one of the codec's bandwidths (the paper).
        commitment: Weight of the commitment loss.
        commitment_over: `mean` over the books in use (encodec's code) or their `sum` (the paper's equation 3).

    Raises:
        ValueError: A value is out of range.
    """

    start: float = 0.0
    start_batches: int = 8
    dropout: Literal["none", "books", "bandwidths"] = "bandwidths"
    commitment: float = 1.0
    commitment_over: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"the codebooks' start must be a share of the run in [0, 1), got {self.start}")
        if self.start_batches < 1:
            raise ValueError(f"start_batches must be 1 or more, got {self.start_batches}")
        if self.dropout not in ("none", "books", "bandwidths"):
            raise ValueError(f"dropout must be none, books or bandwidths, got {self.dropout!r}")
        if not 0 <= self.commitment < math.inf:
            raise ValueError(f"commitment must be a finite weight of 0 or more, got {self.commitment}")
        if self.commitment_over not in ("mean", "sum"):
            raise ValueError(f"commitment_over must be mean or sum, got {self.commitment_over!r}")

    def draw(self, config: CodecConfig, generator: torch.Generator) -> int:
        """Number of books for one batch; the generator advances alike under every setting."""
        choices: Sequence[int] = {
            "none": [config.codebooks],
            "books": range(1, config.codebooks + 1),
            "bandwidths": [config.codebooks_for(b) for b in config.bandwidths_kbps],
        }[self.dropout]
        position = int(torch.rand((), generator=generator).item() * len(choices))
        return choices[min(position, len(choices) - 1)]

    def commitment_loss(self, per_book: Tensor) -> Tensor:
        """Shape: per_book [K] of the books in use -> scalar, weighted."""
        return self.commitment * (per_book.mean() if self.commitment_over == "mean" else per_book.sum())


@dataclass(frozen=True)
class Cadence:
    """How often, in steps, a run logs, validates and saves; it always does all three at its end.

    Raises:
        ValueError: An interval is less than one step.
    """

    log: int = 20
    validate: int = 1000
    checkpoint: int = 1000

    def __post_init__(self) -> None:
        bad = {k: v for k, v in vars(self).items() if v < 1}
        if bad:
            raise ValueError(f"intervals are whole steps from 1 on, got {bad}")


@dataclass(frozen=True)
class DoctorPlan:
    """What a run does when it diverges.

    Args:
        max_returns: So often it goes back to a checkpoint that is known to be good; if it diverges once more, it ends.
            With 0 a divergence is named and nothing is done, but that too many steps that are not finite end the run.
        rate_factor: Of the learning rates, for each return.

    Raises:
        ValueError: A value is out of range.
    """

    max_returns: int = 3
    rate_factor: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.max_returns, int) or self.max_returns < 0:
            raise ValueError(f"doctor.max_returns must be a whole number of 0 or more, got {self.max_returns}")
        if not 0 < self.rate_factor < 1:
            raise ValueError(f"doctor.rate_factor must be between 0 and 1, got {self.rate_factor}")


@dataclass(frozen=True)
class Plan:
    """The settings of a run that belong to no single part.

    Args:
        budget, learning_rate, codebooks, cadence, doctor: See their classes.
        initial: First weights of the codec, unless it comes with trained ones: `random`, or `transform`, see
            `start_as_transform`.
        encoder_rate: Learning rate of the encoder over that of the decoder; 0 leaves the encoder as it is.
        encoder_until: Share of the run until which the encoder learns. From then on it stays, with its averaged
            weights, and k-means places the codebooks anew: averages of small batches lag behind latents that move.
        clip_norm: Largest Euclidean norm of the codec's gradient, None for no clipping.
        average_decay: Of the moving average of the weights that is validated and exported.
        precision: `auto`, `float32` or `bfloat16`; see `choose_precision`.
        max_skipped: So many steps in a row that are not finite end the run.
        seed: Of every draw the trainer makes.
        device: Where to train.

    Raises:
        ValueError: A value is out of range.
    """

    budget: Budget
    learning_rate: LearningRate = field(default_factory=LearningRate)
    codebooks: CodebookPlan = field(default_factory=CodebookPlan)
    cadence: Cadence = field(default_factory=Cadence)
    doctor: DoctorPlan = field(default_factory=DoctorPlan)
    initial: Literal["random", "transform"] = "random"
    encoder_rate: float = 1.0
    encoder_until: float = 1.0
    clip_norm: float | None = None
    average_decay: float = 0.99
    precision: str = "auto"
    max_skipped: int = 20
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.initial not in ("random", "transform"):
            raise ValueError(f"initial must be random or transform, got {self.initial!r}")
        if not 0 <= self.encoder_rate < math.inf:
            raise ValueError(f"encoder_rate must be a finite factor of 0 or more, got {self.encoder_rate}")
        if not self.codebooks.start < self.encoder_until <= 1:
            raise ValueError(
                "encoder_until must be a share of the run, at most 1 and after the start of the codebooks at "
                f"{self.codebooks.start}, got {self.encoder_until}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or null, got {self.clip_norm}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must be in [0, 1), got {self.average_decay}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {self.precision!r}")
        if self.max_skipped < 1:
            raise ValueError(f"max_skipped must be 1 or more, got {self.max_skipped}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")

    def draws(self, step: int) -> torch.Generator:
        """What one step draws from: a function of seed and step alone."""
        # Hashed, since torch's CPU generator looks at no more than the low 32 bits of its seed.
        return torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))
