"""Settings of the trainer: length of the run, schedules, intervals, precision, seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from codec.config import CodecConfig
from codec.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Probability,
    ProperFraction,
    check_ranges,
)

__all__ = ["CodebookConfig", "LRSchedule", "RollbackConfig", "TrainingConfig"]

_LIMITS = ("max_steps", "max_epochs", "max_minutes")


@dataclass(frozen=True)
class LRSchedule:
    """Factor of all learning rates over the run.

    Args:
        warmup_fraction: Share of the run over which the factor rises linearly to 1.
        decay: Shape of the decay from the end of the warm-up to the end of the run.
        final_factor: Factor at the end of the decay.

    Raises:
        ValueError: A value is out of range.
    """

    warmup_fraction: ProperFraction = 0.0
    decay: Literal["none", "linear", "cosine", "exponential"] = "none"
    final_factor: Probability = 0.0

    def __post_init__(self) -> None:
        check_ranges(LRSchedule, vars(self), "trainer.lr_schedule.")
        if self.decay == "exponential" and self.final_factor == 0:
            raise ValueError("trainer.lr_schedule.final_factor must be above 0 with decay=exponential, got 0")

    def factor(self, progress: float) -> float:
        """Factor at `progress` in [0, 1] of the run; at least 0.001 during the warm-up, so that no step is lost."""
        if progress < self.warmup_fraction:
            return max(progress / self.warmup_fraction, 1e-3)
        if self.decay == "none":
            return 1.0
        share = min(1.0, (progress - self.warmup_fraction) / (1 - self.warmup_fraction))
        if self.decay == "exponential":
            return float(self.final_factor**share)
        left = 1 - share if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * share))
        return self.final_factor + (1 - self.final_factor) * left


@dataclass(frozen=True)
class CodebookConfig:
    """How the codebooks take part in training.

    Args:
        start_fraction: Share of the run during which latents are not quantized. An untrained encoder's latents hardly
            vary, and k-means on them leaves only a handful of codes in use.
        init_batches: Number of batches for the k-means initialization of the codebooks and for `init: pca`.
        dropout: Quantizer dropout, drawn once per batch. `codebooks` draws a number from 1 to K uniformly
            (audiocraft), `bandwidths` draws one of the codec's bandwidths (EnCodec), `none` always uses all K.
        dropout_probability: Share of the batches with dropout; the others use all K codebooks. DAC has 0.5, of the
            signals in a batch (Kumar et al. 2023, section 3.3).
        commitment_weight: Weight of the commitment loss.
        commitment_reduction: `mean` over the codebooks in use (encodec's code), or their `sum` (the paper's
            equation 3).

    Raises:
        ValueError: A value is out of range.
    """

    start_fraction: ProperFraction = 0.0
    init_batches: Annotated[int, Ge(1), Le(65536)] = 8
    dropout: Literal["none", "codebooks", "bandwidths"] = "bandwidths"
    dropout_probability: PositiveFraction = 1.0
    commitment_weight: NonNegativeFloat = 1.0
    commitment_reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_ranges(CodebookConfig, vars(self), "trainer.codebooks.")

    def draw(self, config: CodecConfig, generator: torch.Generator) -> int:
        """Number of codebooks for one batch; every setting draws one number from the generator."""
        choices: Sequence[int] = {
            "none": [config.num_codebooks],
            "codebooks": range(1, config.num_codebooks + 1),
            "bandwidths": [config.codebooks_for(b) for b in config.bandwidths_kbps],
        }[self.dropout]
        share = torch.rand((), generator=generator).item() / self.dropout_probability
        return choices[min(int(share * len(choices)), len(choices) - 1)] if share < 1 else config.num_codebooks

    def commitment_loss(self, per_codebook: Tensor) -> Tensor:
        """Weighted commitment loss. Shape: per_codebook [K] -> []."""
        count = len(per_codebook) if self.commitment_reduction == "mean" else 1
        return self.commitment_weight / count * per_codebook.sum()


@dataclass(frozen=True)
class RollbackConfig:
    """What happens when a run diverges.

    Args:
        max_rollbacks: Number of times the run returns to a checkpoint that is known to be good; the next divergence
            ends it. With 0 a divergence is only reported, and the run ends after `max_skipped_steps` skipped steps.
        lr_factor: Factor of the learning rates for each rollback.

    Raises:
        ValueError: A value is out of range.
    """

    max_rollbacks: NonNegativeInt = 3
    lr_factor: Annotated[float, Gt(0), Lt(1)] = 0.5

    def __post_init__(self) -> None:
        check_ranges(RollbackConfig, vars(self), "trainer.rollback.")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a `Trainer`. Exactly one of `max_steps`, `max_epochs` and `max_minutes` is set.

    Args:
        max_steps: Optimizer steps of the run.
        max_epochs: Passes over the training audio, rounded up to whole steps.
        max_minutes: Training time without interruptions. Schedules then follow the clock, and a run cannot be
            repeated to the bit.
        lr_schedule, codebooks, rollback: See their classes.
        log_every: Steps between lines of training metrics. A run also logs, validates and saves at its end.
        validate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints.
        checkpoint_minutes: Longest time between checkpoints; more are saved where steps are slow. None sets no limit.
        init: Initial weights of a codec that is not pretrained: `random`, or `pca` (see `startup.pca_init`).
        encoder_lr_factor: Learning rate of the encoder relative to that of the decoder; 0 freezes the encoder.
        freeze_encoder_until: Share of the run before which the encoder is frozen. A decoder with random weights cannot
            use the phase in the latents yet, so losses of magnitudes would make the encoder discard it.
        freeze_encoder_at: Share of the run after which the encoder is frozen with its averaged weights. k-means then
            initializes the codebooks again, because averages of small batches lag behind latents that change.
        freeze: Parts that keep their weights for the whole run, of `encoder` and `quantizer`. With both, codes stay as
            they are to the bit, and only the decoder is trained.
        gradient_clip_norm: Largest Euclidean norm of the codec's gradient; None disables clipping.
        ema_decay: Decay per step of the averaged weights, which are validated and exported.
        precision: `auto`, `float32`, `tf32` or `bfloat16`; see `startup.precision.choose_precision`.
        deterministic: On CUDA, use deterministic algorithms only, which are slower. A resumed run then equals an
            uninterrupted one to the bit, as it does on a CPU without this setting.
        accumulate: Parts that a batch is computed in, one after the other, to save memory; see
            `codec.training.accumulation`.
        compile: Mode of `torch.compile` for encoder, decoder and discriminator in training steps, `default` or
            `reduce-overhead`; None does not compile them. See `startup.compilation`.
        outputs_per_segment: Copies of each segment in a batch. A decoder with noise makes another output from each,
            as `losses.EnergyDistance` needs.
        max_skipped_steps: Number of consecutive non-finite steps that counts as a divergence.
        seed: Seed of all random numbers of the trainer.
        device: Device to train on.

    Raises:
        ValueError: A value is out of range.
    """

    max_steps: PositiveInt | None = None
    max_epochs: PositiveFloat | None = None
    max_minutes: PositiveFloat | None = None
    lr_schedule: LRSchedule = field(default_factory=LRSchedule)
    codebooks: CodebookConfig = field(default_factory=CodebookConfig)
    rollback: RollbackConfig = field(default_factory=RollbackConfig)
    log_every: PositiveInt = 20
    validate_every: PositiveInt = 1000
    checkpoint_every: PositiveInt = 1000
    checkpoint_minutes: PositiveFloat | None = 10.0
    init: Literal["random", "pca"] = "random"
    encoder_lr_factor: NonNegativeFloat = 1.0
    freeze_encoder_until: ProperFraction = 0.0
    freeze_encoder_at: PositiveFraction = 1.0
    freeze: Sequence[Literal["encoder", "quantizer"]] = ()
    gradient_clip_norm: PositiveFloat | None = None
    ema_decay: ProperFraction = 0.99
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    deterministic: bool = False
    accumulate: PositiveInt = 1
    compile: Literal["default", "reduce-overhead"] | None = None
    outputs_per_segment: Annotated[int, Ge(1), Le(1024)] = 1
    max_skipped_steps: PositiveInt = 20
    seed: NonNegativeInt = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_ranges(TrainingConfig, vars(self), "trainer.")
        given = {name: getattr(self, name) for name in _LIMITS if getattr(self, name) is not None}
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(f'trainer.{name}' for name in _LIMITS)} must be set, got {given or 'none'}"
            )
        if not self.codebooks.start_fraction < self.freeze_encoder_at:
            raise ValueError(
                "trainer.freeze_encoder_at must be greater than trainer.codebooks.start_fraction, "
                f"got {self.freeze_encoder_at} and {self.codebooks.start_fraction}"
            )
        if list(self.freeze) == ["quantizer"] and self.freeze_encoder_at < 1:
            raise ValueError(
                "trainer.freeze=[quantizer] keeps the codebooks, but trainer.freeze_encoder_at="
                f"{self.freeze_encoder_at} initializes them again: set one of the two"
            )
        if not self.freeze_encoder_until < self.freeze_encoder_at:
            raise ValueError(
                "trainer.freeze_encoder_at must be greater than trainer.freeze_encoder_until, "
                f"got {self.freeze_encoder_at} and {self.freeze_encoder_until}"
            )

    def freezes_encoder(self, progress: float) -> bool:
        """Whether the encoder is frozen at this share of the run."""
        trains = self.freeze_encoder_until <= progress < self.freeze_encoder_at
        return "encoder" in self.freeze or self.encoder_lr_factor == 0 or not trains

    @property
    def freezes_quantizer(self) -> bool:
        """Whether the codebooks keep their codes."""
        return "quantizer" in self.freeze

    def in_steps(self, steps_per_epoch: float) -> "TrainingConfig":
        """The same settings with `max_epochs` converted to `max_steps`."""
        if self.max_epochs is None:
            return self
        if math.isinf(steps_per_epoch):
            raise ValueError(
                "trainer.max_epochs needs a data.dataset that has a length: set trainer.max_steps or "
                "trainer.max_minutes instead"
            )
        return replace(self, max_steps=max(1, math.ceil(self.max_epochs * steps_per_epoch)), max_epochs=None)

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done; 1 or more at its end.

        Raises:
            ValueError: The length of the run is in epochs; see `in_steps`.
        """
        if self.max_steps is not None:
            return step / self.max_steps
        if self.max_minutes is not None:
            return seconds / (60 * self.max_minutes)
        raise ValueError("trainer.max_epochs must be converted with in_steps first")

    def step_generator(self, step: int) -> torch.Generator:
        """Random generator of one step; its seed depends on `seed` and `step` only."""
        # Hashed, because torch's CPU generator uses only the low 32 bits of its seed.
        return torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))
