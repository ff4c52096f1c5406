"""Several discriminators as one."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from losses.protocols import Discriminator, DiscriminatorOutput, minimum_samples, segment_samples

__all__ = ["CombinedDiscriminator"]


class CombinedDiscriminator(nn.Module):
    """Several discriminators as one. All their sub-discriminators have the same weight in the losses.

    Args:
        discriminators: Modules that follow the `Discriminator` protocol. The output has their order.

    Attributes:
        minimum_samples, window_samples: The largest of all.

    Shape: audio [B, C, T] -> logits and features of the first, then of the second, and so on.

    Raises:
        ValueError: There is no discriminator, or the audio is too short for one of them.
    """

    def __init__(self, discriminators: Sequence[Discriminator]) -> None:
        super().__init__()
        if not discriminators:
            raise ValueError("expected at least one discriminator to combine, got none")
        self.discriminators = nn.ModuleList(cast(Sequence[nn.Module], discriminators))
        self.minimum_samples = max(map(minimum_samples, discriminators))
        self.window_samples = max(map(segment_samples, discriminators))

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        outputs: list[DiscriminatorOutput] = [discriminator(audio) for discriminator in self.discriminators]
        return DiscriminatorOutput(
            [logits for output in outputs for logits in output.logits],
            [features for output in outputs for features in output.features],
        )
