"""The multi-resolution, multi-band STFT discriminator of DAC (Kumar et al. 2023, section 3.4)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from losses.discriminators.layers import forward_features, forward_sub_discriminators, normalize_peak
from losses.inputs import check_audio, reflect_pad
from losses.protocols import DiscriminatorOutput
from losses.ranges import Fraction, Size
from losses.stft import STFT

__all__ = ["MultiBandSTFTDiscriminator"]

_PEAK = 0.8  # of the audio that the networks get


class MultiBandSTFTDiscriminator(nn.Module):
    """One network per window, on the complex spectrogram split into bands that have layers of their own.

    As in DAC, the mean is removed and the peak of each signal is set to 0.8 first, and the signal is padded by
    reflection so that it has one frame per hop. The logits are no feature: DAC's loss leaves them out.

    Args:
        filters: Channels of every hidden layer.
        windows: Hann windows in samples, multiples of 4, one network each; the hop is a quarter.
        bands: Edges of the bands as fractions of half the sampling rate, from 0 to 1.
        negative_slope: Slope of the leaky ReLU.

    Shape: audio [B, C, T] -> K logits [B C, 1, F, bins'], K lists of 5 features per band [B C, filters, F, bins'].

    Raises:
        ValueError: A setting is out of range, or the audio is too short for the longest window.
    """

    def __init__(
        self,
        filters: Size = 32,
        windows: Sequence[Size] = (2048, 1024, 512),
        bands: Sequence[Fraction] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        negative_slope: Fraction = 0.1,
    ) -> None:
        super().__init__()
        if not windows or min(windows) < 4 or any(window % 4 for window in windows):
            raise ValueError(f"expected windows that are multiples of 4 samples, got {list(windows)}")
        if len(bands) < 2 or bands[0] != 0 or bands[-1] != 1 or any(a >= b for a, b in itertools.pairwise(bands)):
            raise ValueError(f"expected edges of bands that rise from 0 to 1, got {list(bands)}")
        self.sub_discriminators = nn.ModuleList(
            _BandsNetwork(filters, window, bands, negative_slope) for window in windows
        )
        self.minimum_samples = max(windows) // 4 * 3 // 2 + max(windows) // 4  # for the reflection
        self.window_samples = max(windows)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio, self.minimum_samples)
        return forward_sub_discriminators(self.sub_discriminators, normalize_peak(audio, _PEAK))


class _BandsNetwork(nn.Module):
    """The network of one window. Shape: audio [N, T] -> logits [N, 1, F, bins'], features."""

    def __init__(self, filters: int, window: int, bands: Sequence[float], negative_slope: float) -> None:
        super().__init__()
        self.negative_slope, self.hop_samples, self.padding = negative_slope, window // 4, window // 4 * 3 // 2
        self.stft = STFT(window, window // 4)
        self.edges = [int(edge * (window // 2 + 1)) for edge in bands]
        if min(self.widths) < 1:
            raise ValueError(f"a window of {window} samples is too short for bands at {list(bands)}: a band has no bin")
        self.bands = nn.ModuleList(nn.ModuleList(_layers(filters)) for _ in self.widths)
        self.output = weight_norm(nn.Conv2d(filters, 1, (3, 3), padding=(1, 1)))

    @property
    def widths(self) -> list[int]:
        """Bins of each band."""
        return [high - low for low, high in itertools.pairwise(self.edges)]

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        missing = -audio.shape[-1] % self.hop_samples
        padded = reflect_pad(audio, self.padding, self.padding + missing)
        # [N, F, bins, 2] viewed as [N, 2, F, bins] has the strides of channels_last.
        spectrum = self.stft(padded).unflatten(-1, (-1, 2)).permute(0, 3, 1, 2)
        ends, features = [], []
        for convs, band in zip(self.bands, spectrum.split(self.widths, -1), strict=True):
            end, found = forward_features(convs, nn.Identity(), band, self.negative_slope)  # type: ignore[arg-type]
            ends.append(end)
            features += found
        return self.output(torch.cat(ends, -1)), features


def _layers(filters: int) -> list[nn.Module]:
    strided = (nn.Conv2d(filters, filters, (3, 9), (1, 2), (1, 4)) for _ in range(3))
    last = nn.Conv2d(filters, filters, (3, 3), padding=(1, 1))
    return [weight_norm(conv) for conv in (nn.Conv2d(2, filters, (3, 9), padding=(1, 4)), *strided, last)]
