"""Discriminators of waveforms: multi-period (HiFi-GAN) and multi-scale (MelGAN)."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .discriminators import DiscriminatorOutput, judge, through
from .shapes import check_audio

__all__ = ["MultiPeriodDiscriminator", "MultiScaleDiscriminator"]


class MultiPeriodDiscriminator(nn.Module):
    """The multi-period discriminator of HiFi-GAN (Kong et al. 2020, section 2.3), also used by DAC and audiocraft.

    One network on every p-th sample for each period p. Its logits are also its last feature, as in HiFi-GAN.

    Args:
        periods: In samples, one network each.
        channels: Of the hidden layers; all but the last have stride 3.
        negative_slope: Of the leaky ReLU: 0.1 in HiFi-GAN and DAC, 0.3 in audiocraft's configuration.

    Shape: audio [B, C, T] -> K logits [B C, 1, F, p], K lists of len(channels) + 1 features [B C, channels, F, p].

    Raises:
        ValueError: The audio is shorter than the longest period.
    """

    def __init__(
        self,
        periods: list[int] | tuple[int, ...] = (2, 3, 5, 7, 11),
        channels: list[int] | tuple[int, ...] = (32, 128, 512, 1024, 1024),
        negative_slope: float = 0.1,
    ) -> None:
        super().__init__()
        if not periods or min(periods) < 1 or not channels:
            raise ValueError(f"expected periods >= 1 and channels, got {list(periods)} and {list(channels)}")
        self.periods = list(periods)
        self.sub_discriminators = nn.ModuleList(_Period(period, list(channels), negative_slope) for period in periods)
        self.to(memory_format=torch.channels_last)

    @property
    def minimum_samples(self) -> int:
        """The longest period: reflection must not reach beyond the other end."""
        return max(self.periods)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio, self.minimum_samples)
        return judge(self.sub_discriminators, audio.flatten(0, 1))


class _Period(nn.Module):
    """One period of `MultiPeriodDiscriminator`. Shape: audio [N, T] -> logits [N, 1, F, p], features."""

    def __init__(self, period: int, channels: list[int], negative_slope: float) -> None:
        super().__init__()
        self.period, self.negative_slope = period, negative_slope
        sizes = [1, *channels]
        self.convs = nn.ModuleList(
            weight_norm(
                nn.Conv2d(
                    sizes[layer],
                    sizes[layer + 1],
                    (5, 1),
                    stride=(3 if layer < len(channels) - 1 else 1, 1),
                    padding=(2, 0),
                )
            )
            for layer in range(len(channels))
        )
        self.output = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        missing = -audio.shape[-1] % self.period
        rows = F.pad(audio, (0, missing), mode="reflect").unflatten(-1, (-1, self.period))
        # [N, F, p, 1] seen as [N, 1, F, p]: with one channel the strides alone say which format is meant.
        image = rows.unsqueeze(-1).permute(0, 3, 1, 2)
        logits, features = through(self.convs, self.output, image, self.negative_slope)
        return logits, [*features, logits]


class MultiScaleDiscriminator(nn.Module):
    """The multi-scale waveform discriminator of MelGAN (Kumar et al. 2019, section 2.3).

    One network on the audio, one on its mean over pairs of samples, and so on. audiocraft's version computes those
    means and then drops them, so that all its networks see the full rate; here they are used.

    Args:
        scales: Networks; each sees half the sample rate of the one before.
        filters: Channels of the first layer; each of the four strided layers has 4 times as many as the one before.
        max_filters: Bound on the channels.
        negative_slope: Of the leaky ReLU.

    Shape: audio [B, C, T] -> K logits [B C, 1, F], K lists of 6 features [B C, channels, F].

    Raises:
        ValueError: The audio is too short for the lowest rate.
    """

    def __init__(
        self, scales: int = 3, filters: int = 16, max_filters: int = 1024, negative_slope: float = 0.2
    ) -> None:
        super().__init__()
        if scales < 1 or filters < 4 or filters % 4 or max_filters % filters:
            raise ValueError(
                "expected scales >= 1, filters a multiple of 4 and max_filters a multiple of filters, "
                f"got {scales}, {filters} and {max_filters}"
            )
        self.sub_discriminators = nn.ModuleList(
            _Scale(level, filters, max_filters, negative_slope) for level in range(scales)
        )

    @property
    def minimum_samples(self) -> int:
        """8 samples at the lowest rate: the first layer reflects 7."""
        return 8 << (len(self.sub_discriminators) - 1)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio, self.minimum_samples)
        return judge(self.sub_discriminators, audio.flatten(0, 1))


class _Scale(nn.Module):
    """One rate of `MultiScaleDiscriminator`. Shape: audio [N, T] -> logits [N, 1, F], features."""

    def __init__(self, level: int, filters: int, max_filters: int, negative_slope: float) -> None:
        super().__init__()
        self.level, self.negative_slope = level, negative_slope
        sizes = [min(filters * 4**layer, max_filters) for layer in range(5)]
        wide = min(sizes[-1] * 2, max_filters)
        self.convs = nn.ModuleList(
            [
                weight_norm(nn.Conv1d(1, filters, 15)),
                *(
                    weight_norm(nn.Conv1d(inner, outer, 41, stride=4, padding=20, groups=inner // 4))
                    for inner, outer in itertools.pairwise(sizes)
                ),
                weight_norm(nn.Conv1d(sizes[-1], wide, 5, padding=2)),
            ]
        )
        self.output = weight_norm(nn.Conv1d(wide, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        signal = audio.unsqueeze(1)
        for _ in range(self.level):
            signal = F.avg_pool1d(signal, 4, stride=2, padding=1, count_include_pad=False)
        return through(self.convs, self.output, F.pad(signal, (7, 7), mode="reflect"), self.negative_slope)
