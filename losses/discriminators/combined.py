"""Several discriminators as one."""

import re
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from losses.discriminators.layers import normalize_peak
from losses.protocols import Discriminator, DiscriminatorOutput, minimum_samples, segment_samples
from losses.ranges import PositiveFloat

__all__ = ["CombinedDiscriminator"]


class CombinedDiscriminator(nn.Module):
    """Several discriminators as one. All their sub-discriminators have the same weight in the losses.

    Args:
        discriminators: Modules that follow the `Discriminator` protocol. The output has their order.
        peak: The mean of each signal is removed and its peak set to this first, as in DAC (0.8). None: the audio as
            it is.

    Attributes:
        minimum_samples, window_samples: The largest of all.
        names: Of the discriminators, after their classes: `multi_period`; `multi_period_0` if a class has several.

    Shape: audio [B, C, T] -> logits and features of the first, then of the second, and so on.

    Raises:
        ValueError: There is no discriminator, `peak` is out of range, or the audio is too short for one of them.
    """

    def __init__(self, discriminators: Sequence[Discriminator], peak: PositiveFloat | None = None) -> None:
        super().__init__()
        if not discriminators:
            raise ValueError("expected at least one discriminator to combine, got none")
        if peak is not None and not peak > 0:
            raise ValueError(f"expected a peak above 0, got {peak}")
        self.peak = peak
        self.discriminators = nn.ModuleList(cast(Sequence[nn.Module], discriminators))
        kinds = [_name(discriminator) for discriminator in discriminators]
        self.names = [kind if kinds.count(kind) == 1 else f"{kind}_{i}" for i, kind in enumerate(kinds)]
        self.minimum_samples = max(map(minimum_samples, discriminators))
        self.window_samples = max(map(segment_samples, discriminators))

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        if self.peak is not None:
            audio = normalize_peak(audio, self.peak)
        outputs: list[DiscriminatorOutput] = [discriminator(audio) for discriminator in self.discriminators]
        return DiscriminatorOutput(
            [logits for output in outputs for logits in output.logits],
            [features for output in outputs for features in output.features],
            [name for name, output in zip(self.names, outputs, strict=True) for _ in output.logits],
        )


def _name(discriminator: object) -> str:
    """MultiScaleSTFTDiscriminator -> multi_scale_stft."""
    kind = type(discriminator).__name__.removesuffix("Discriminator")
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower()
