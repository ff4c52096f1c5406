"""The multi-period discriminator of HiFi-GAN (Kong et al. 2020, section 2.3), also used by DAC and audiocraft."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from losses.discriminators.layers import forward_features, forward_sub_discriminators
from losses.inputs import check_audio, reflect_pad
from losses.protocols import DiscriminatorOutput
from losses.ranges import Fraction, Size

__all__ = ["MultiPeriodDiscriminator"]


class MultiPeriodDiscriminator(nn.Module):
    """One network per period p, on the audio folded into rows of p samples.

    As in HiFi-GAN, the logits are also the last feature.

    Args:
        periods: Periods in samples, one network each.
        channels: Channels of the hidden layers; all but the last have stride 3.
        negative_slope: Slope of the leaky ReLU: 0.1 in HiFi-GAN and DAC, 0.3 in audiocraft's configuration.

    Shape: audio [B, C, T] -> K logits [B C, 1, F, p], K lists of len(channels) + 1 features [B C, channels, F, p].

    Raises:
        ValueError: A setting is out of range, or the audio is shorter than the longest period.
    """

    def __init__(
        self,
        periods: Sequence[Size] = (2, 3, 5, 7, 11),
        channels: Sequence[Size] = (32, 128, 512, 1024, 1024),
        negative_slope: Fraction = 0.1,
    ) -> None:
        super().__init__()
        if not periods or min(periods) < 1 or not channels:
            raise ValueError(f"expected periods >= 1 and channels, got {list(periods)} and {list(channels)}")
        self.sub_discriminators = nn.ModuleList(_PeriodNetwork(period, channels, negative_slope) for period in periods)
        self.minimum_samples = max(periods)  # reflection must not reach beyond the other end

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio, self.minimum_samples)
        return forward_sub_discriminators(self.sub_discriminators, audio)


class _PeriodNetwork(nn.Module):
    """The network of one period. Shape: audio [N, T] -> logits [N, 1, F, p], features."""

    def __init__(self, period: int, channels: Sequence[int], negative_slope: float) -> None:
        super().__init__()
        self.period, self.negative_slope = period, negative_slope
        sizes = [1, *channels]
        strides = [3] * (len(channels) - 1) + [1]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(sizes[layer], sizes[layer + 1], (5, 1), stride=(stride, 1), padding=(2, 0)))
            for layer, stride in enumerate(strides)
        )
        self.output = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        missing = -audio.shape[-1] % self.period
        rows = reflect_pad(audio, 0, missing).unflatten(-1, (-1, self.period))
        # [N, F, p, 1] viewed as [N, 1, F, p]: with one channel only the strides tell channels_last apart.
        image = rows.unsqueeze(-1).permute(0, 3, 1, 2)
        logits, features = forward_features(self.convs, self.output, image, self.negative_slope)
        return logits, [*features, logits]
