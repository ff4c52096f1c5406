"""One discriminator for each bitrate (EnCodec, Défossez et al. 2022, section 3.4, multi-bandwidth training).

A batch has one bitrate, drawn at random. Only the discriminator of that bitrate is evaluated and updated, so each sees
the artefacts of one bitrate.
"""

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from losses.discriminators.combined import CombinedDiscriminator
from losses.protocols import Discriminator, DiscriminatorOutput

__all__ = ["DiscriminatorPerBandwidth"]


class DiscriminatorPerBandwidth(nn.Module):
    """Discriminators of one architecture with weights of their own.

    Args:
        make: Returns a new discriminator in every call.
        bandwidths_kbps: Bitrates that the codec is trained for, in kbit/s, in rising order.

    Attributes:
        combined: All of them, from the lowest bitrate up.
        minimum_samples, window_samples: Those of each.

    Shape: audio [B, C, T] -> logits and features of all, from the lowest bitrate up. A step uses `for_bandwidth`.

    Raises:
        ValueError: There is no bitrate, they do not rise, or `make` returns modules that share parameters.
    """

    def __init__(self, make: Callable[[], nn.Module], bandwidths_kbps: Sequence[float]) -> None:
        super().__init__()
        self.bandwidths_kbps = [float(each) for each in bandwidths_kbps]
        if not self.bandwidths_kbps or self.bandwidths_kbps != sorted(set(self.bandwidths_kbps)):
            raise ValueError(f"expected bandwidths_kbps in rising order, got {list(bandwidths_kbps)}")
        made = [make() for _ in self.bandwidths_kbps]
        parameters = [id(parameter) for each in made for parameter in each.parameters()]
        if len(set(parameters)) != len(parameters):
            raise ValueError("make must return a new discriminator in every call, but the discriminators share weights")
        self.combined = CombinedDiscriminator(cast(list[Discriminator], made))
        self.minimum_samples, self.window_samples = self.combined.minimum_samples, self.combined.window_samples

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        output: DiscriminatorOutput = self.combined(audio)
        return output

    def for_bandwidth(self, bandwidth_kbps: float) -> nn.Module:
        """The discriminator of the lowest bitrate that is not below this one, or of the highest of all."""
        reached = (i for i, each in enumerate(self.bandwidths_kbps) if bandwidth_kbps <= each + 1e-6)
        return self.combined.discriminators[next(reached, len(self.bandwidths_kbps) - 1)]
