"""The multi-scale waveform discriminator of MelGAN (Kumar et al. 2019, section 2.3)."""

import itertools
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from losses.discriminators.layers import forward_features, forward_sub_discriminators
from losses.inputs import check_audio, reflect_pad
from losses.protocols import DiscriminatorOutput
from losses.ranges import Fraction, Size

__all__ = ["MultiScaleDiscriminator"]


class MultiScaleDiscriminator(nn.Module):
    """One network on the audio, one on the audio at half the sampling rate, and so on.

    audiocraft's version computes the downsampled audio and then does not use it: all its networks get the full rate.

    Args:
        num_sub_discriminators: Number of networks; each gets half the sampling rate of the one before.
        filters: Channels of the first layer; each of the four strided layers has 4 times as many as the one before.
        max_filters: Upper bound on the channels.
        negative_slope: Slope of the leaky ReLU.

    Shape: audio [B, C, T] -> K logits [B C, 1, F], K lists of 6 features [B C, channels, F].

    Raises:
        ValueError: A setting is out of range, or the audio is too short for the lowest rate.
    """

    def __init__(
        self,
        num_sub_discriminators: Annotated[int, Gt(0), Le(10)] = 3,
        filters: Size = 16,
        max_filters: Size = 1024,
        negative_slope: Fraction = 0.2,
    ) -> None:
        super().__init__()
        if num_sub_discriminators < 1 or filters < 4 or filters % 4 or max_filters % filters:
            raise ValueError(
                "expected num_sub_discriminators >= 1, filters a multiple of 4 and max_filters a multiple of filters, "
                f"got {num_sub_discriminators}, {filters} and {max_filters}"
            )
        self.sub_discriminators = nn.ModuleList(
            _WaveformNetwork(halvings, filters, max_filters, negative_slope)
            for halvings in range(num_sub_discriminators)
        )
        # 8 samples at the lowest rate: the first layer reflects 7.
        self.minimum_samples = 8 << (num_sub_discriminators - 1)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio, self.minimum_samples)
        return forward_sub_discriminators(self.sub_discriminators, audio)


class _WaveformNetwork(nn.Module):
    """The network of one sampling rate. Shape: audio [N, T] -> logits [N, 1, F], features."""

    def __init__(self, halvings: int, filters: int, max_filters: int, negative_slope: float) -> None:
        super().__init__()
        self.halvings, self.negative_slope = halvings, negative_slope
        sizes = [min(filters * 4**layer, max_filters) for layer in range(5)]
        widest = min(sizes[-1] * 2, max_filters)
        self.convs = nn.ModuleList(
            [
                weight_norm(nn.Conv1d(1, filters, 15)),
                *(
                    weight_norm(nn.Conv1d(inner, outer, 41, stride=4, padding=20, groups=inner // 4))
                    for inner, outer in itertools.pairwise(sizes)
                ),
                weight_norm(nn.Conv1d(sizes[-1], widest, 5, padding=2)),
            ]
        )
        self.output = weight_norm(nn.Conv1d(widest, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        signal = audio.unsqueeze(1)
        for _ in range(self.halvings):
            signal = F.avg_pool1d(signal, 4, stride=2, padding=1, count_include_pad=False)
        return forward_features(self.convs, self.output, reflect_pad(signal, 7, 7), self.negative_slope)
