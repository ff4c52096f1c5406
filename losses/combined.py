"""Several discriminators as one."""

from typing import cast

from torch import Tensor, nn

from .discriminators import DiscriminatorOutput, MultiScaleSTFTDiscriminator
from .waveform_discriminators import MultiPeriodDiscriminator, MultiScaleDiscriminator

__all__ = ["CombinedDiscriminator"]


class CombinedDiscriminator(nn.Module):
    """Several discriminators as one, their sub-discriminators counted alike.

    Args:
        discriminators: Any of this package; their order is that of the output.

    Shape: audio [B, C, T] -> the logits and features of the first, then of the second ...
    """

    def __init__(
        self, discriminators: list[MultiScaleSTFTDiscriminator | MultiPeriodDiscriminator | MultiScaleDiscriminator]
    ) -> None:
        super().__init__()
        if not discriminators:
            raise ValueError("expected at least one discriminator to combine, got none")
        self.discriminators = nn.ModuleList(discriminators)
        self.minimum_samples = max(discriminator.minimum_samples for discriminator in discriminators)

    @property
    def sub_discriminators(self) -> list[nn.Module]:
        """The sub-discriminators of all."""
        return [scale for each in self.discriminators for scale in cast(nn.ModuleList, each.sub_discriminators)]

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        outputs = [discriminator(audio) for discriminator in self.discriminators]
        return DiscriminatorOutput(
            [logits for output in outputs for logits in output.logits],
            [features for output in outputs for features in output.features],
        )
