"""The multi-filter-bank discriminator of HILCodec (Ahn et al. 2024, section III-E).

The period discriminator of HiFi-GAN takes every p-th sample, which folds the spectrum. Here a filter bank splits the
signal into p bands before it is decimated, so that little folds.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from losses.discriminators.layers import forward_features, forward_sub_discriminators
from losses.inputs import at_least_float32, check_audio, without_autocast
from losses.protocols import DiscriminatorOutput
from losses.ranges import Fraction, Size

__all__ = ["FilterBank", "MultiFilterBankDiscriminator"]


class MultiFilterBankDiscriminator(nn.Module):
    """One network per number of bands, on the signals of a filter bank; all bands share its weights.

    As in HiFi-GAN, the logits are also the last feature.

    Args:
        bands: Number of bands of each network; 1 is the waveform.
        cutoffs: Cutoff of each prototype filter as a fraction of half the sampling rate; unused with one band. The
            defaults are HILCodec's, for which the bands together have a flat response.
        taps: Order of the prototype filters, even.
        channels: Channels of the hidden layers; all but the last have stride 3.
        negative_slope: Slope of the leaky ReLU.

    Shape: audio [B, C, T] -> K logits [B C, 1, bands, F], K lists of len(channels) + 1 features
        [B C, channels, bands, F].

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        bands: Sequence[Size] = (1, 2, 3, 5, 7, 11),
        cutoffs: Sequence[Fraction] = (0.0, 0.253881, 0.170546, 0.103881, 0.075310, 0.049338),
        taps: Size = 256,
        channels: Sequence[Size] = (32, 128, 512, 1024, 1024),
        negative_slope: Fraction = 0.1,
    ) -> None:
        super().__init__()
        if not bands or min(bands) < 1 or not channels or len(cutoffs) != len(bands):
            raise ValueError(
                f"expected numbers of bands, a cutoff for each, and channels, got {list(bands)}, {list(cutoffs)} and "
                f"{list(channels)}"
            )
        if taps < 2 or taps % 2:
            raise ValueError(f"expected taps to be an even number, got {taps}")
        self.sub_discriminators = nn.ModuleList(
            _BankNetwork(count, cutoff, taps, channels, negative_slope)
            for count, cutoff in zip(bands, cutoffs, strict=True)
        )

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio, 1)
        return forward_sub_discriminators(self.sub_discriminators, audio)


class FilterBank(nn.Module):
    """A cosine-modulated filter bank (pseudo-QMF, Lin and Vaidyanathan 1998) with a Kaiser window of beta 8.

    Buffers:
        filters [bands, 1, taps + 1]: not saved.

    Shape: audio [N, T] -> [N, bands, ceil(T / bands)], the lowest band first.
    """

    filters: Tensor

    def __init__(self, bands: int, cutoff: float, taps: int) -> None:
        super().__init__()
        if not 0 < cutoff < 1:
            raise ValueError(f"expected a cutoff between 0 and 1 for {bands} bands, got {cutoff}")
        n = torch.arange(taps + 1, dtype=torch.float64) - taps / 2
        window = torch.kaiser_window(taps + 1, periodic=False, beta=8.0, dtype=torch.float64)
        prototype = cutoff * torch.sinc(cutoff * n) * window
        k = torch.arange(bands, dtype=torch.float64)[:, None]
        phase = math.pi / 4 * (-1) ** k
        waves = ((2 * k + 1) * math.pi / (2 * bands) * n + phase).cos()
        filters = 2 * math.sqrt(bands) * prototype * waves
        self.register_buffer("filters", filters[:, None].float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        bands, _, length = self.filters.shape
        with without_autocast(audio):
            return F.conv1d(at_least_float32(audio)[:, None], self.filters, stride=bands, padding=length // 2)


class _BankNetwork(nn.Module):
    """The network of one filter bank. Shape: audio [N, T] -> logits [N, 1, bands, F], features."""

    def __init__(self, bands: int, cutoff: float, taps: int, channels: Sequence[int], negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.bank = FilterBank(bands, cutoff, taps) if bands > 1 else None
        sizes = [1, *channels]
        strides = [3] * (len(channels) - 1) + [1]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(sizes[layer], sizes[layer + 1], (1, 5), stride=(1, stride), padding=(0, 2)))
            for layer, stride in enumerate(strides)
        )
        self.output = weight_norm(nn.Conv2d(sizes[-1], 1, (1, 3), padding=(0, 1)))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        signals = audio[:, None] if self.bank is None else self.bank(audio)
        # [N, bands, F, 1] viewed as [N, 1, bands, F]: with one channel only the strides tell channels_last apart.
        image = signals.unsqueeze(-1).permute(0, 3, 1, 2)
        logits, features = forward_features(self.convs, self.output, image, self.negative_slope)
        return logits, [*features, logits]
