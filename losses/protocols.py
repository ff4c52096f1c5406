"""What the trainer needs of a loss, of a discriminator and of a GAN loss.

Each is an `nn.Module` or holds its state in one. None of them has to derive from a class of this package, so
`torch.nn.L1Loss` is a loss. The name of a loss is its key in the config, `losses.terms`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

__all__ = [
    "Discriminator",
    "DiscriminatorOutput",
    "GANLoss",
    "HasConstantBaseline",
    "Loss",
    "discriminator_for",
    "minimum_samples",
    "segment_samples",
]


class Loss(Protocol):
    """A distance between two signals, differentiable with respect to the estimate.

    Optional attributes:
        minimum_samples: Fewest samples that the loss accepts, 1 if absent.
        window_samples: Length of its longest analysis window, if it is longer than `minimum_samples`.
        may_increase: Whether the loss rises in healthy training, so that its rise is not a divergence.
        constant_baseline: See `HasConstantBaseline`.
    """

    def __call__(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Shape: estimate [B, C, T], reference [B, C, T] -> scalar."""


@runtime_checkable
class HasConstantBaseline(Protocol):
    """A loss whose value at the best constant prediction can be computed from data."""

    def constant_baseline(self, reference: Tensor) -> Tensor:
        """Shape: reference [B, C, T] -> scalar."""


class DiscriminatorOutput(NamedTuple):
    """Output of K sub-discriminators for B x C signals: channels are scored separately."""

    logits: list[Tensor]  # K tensors [B C, 1, ...], high for real audio
    features: list[list[Tensor]]  # K lists of layer outputs [B C, channels, ...]
    parts: Sequence[str] = ()  # K names, equal within a part of a combined discriminator; empty if it has no parts


class Discriminator(Protocol):
    """A network that tells real audio from coded audio.

    Optional attributes:
        minimum_samples, window_samples: As in `Loss`.
        for_bandwidth: A method that returns the part of it that trains at a bitrate in kbit/s, a discriminator too.
    """

    def __call__(self, audio: Tensor) -> DiscriminatorOutput:
        """Shape: audio [B, C, T] -> K logits, K lists of features."""


class GANLoss(Protocol):
    """The losses of the two networks of a GAN. `AdversarialLoss` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the losses that `generator_losses` returns, in order."""

    @property
    def uninformed_discriminator_loss(self) -> float:
        """The lowest loss of a discriminator that gives real and coded audio the same logits."""

    def generator_losses(self, estimate: DiscriminatorOutput, reference: DiscriminatorOutput) -> dict[str, Tensor]:
        """Losses of the codec by name. The reference is a target: no gradient flows to it."""

    def discriminator_loss(self, estimate: DiscriminatorOutput, reference: DiscriminatorOutput) -> Tensor:
        """Loss of the discriminator, a scalar."""


def discriminator_for(discriminator: nn.Module, bandwidth_kbps: float | None) -> nn.Module:
    """The part of a discriminator that trains at a bitrate in kbit/s: all of it, unless it has `for_bandwidth`."""
    choose = getattr(discriminator, "for_bandwidth", None)
    if choose is None or bandwidth_kbps is None:
        return discriminator
    chosen: nn.Module = choose(bandwidth_kbps)
    return chosen


def minimum_samples(part: object) -> int:
    """Fewest samples that a loss or a discriminator accepts."""
    return int(getattr(part, "minimum_samples", 1))


def segment_samples(part: object) -> int:
    """Fewest samples that a training segment needs for a loss or a discriminator.

    A loss that reflects the signal at its ends accepts less than one window, but then no window holds only real audio.
    """
    return max(minimum_samples(part), int(getattr(part, "window_samples", 1)))
