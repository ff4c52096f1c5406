"""Discriminators: networks that judge audio, and so are learned losses of a codec. Dropped when a model is exported.

Each takes audio [B, C, T], scores its channels separately, and gives a `DiscriminatorOutput`. Each has
`sub_discriminators`, which map signals [N, T] to logits and features independently of each other, and a property
`minimum_samples`, the shortest audio that it can judge. Spectra are float32; convolutions run in the caller's autocast,
and every Conv2d in `channels_last`: on a CPU the STFT networks gain a third in float32 and a factor of 3 in bfloat16.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .narrow_conv import NarrowConv2d
from .shapes import check_audio
from .stft import STFT

__all__ = ["DiscriminatorOutput", "MultiScaleSTFTDiscriminator", "judge", "through"]

_SILENCE = 1e-8  # power of a bin, below which compression is linear and its gradient bounded


class DiscriminatorOutput(NamedTuple):
    """Verdicts of K sub-discriminators on B C signals."""

    logits: list[Tensor]  # K tensors [B C, 1, ...], high for real audio
    features: list[list[Tensor]]  # K lists of layer outputs [B C, channels, ...]


class MultiScaleSTFTDiscriminator(nn.Module):
    """The multi-scale STFT discriminator of EnCodec (Défossez et al. 2022, section 3.4, figure 2).

    One convolutional network on the complex spectrogram of each window. The paper states 3 x 8 kernels; the code of
    encodec and audiocraft has 3 x 9, and no weight normalisation in the first layer, and so has this.

    Args:
        filters: Channels of every hidden layer.
        windows: Hann windows in samples, one network each; hop a quarter. At 48 kHz the paper doubles them.
        kernel: Of the hidden layers, in frames and bins (odd).
        dilations: In frames, one layer of stride 2 in bins for each.
        negative_slope: Of the leaky ReLU: 0.2 in encodec, 0.3 in audiocraft's configuration.
        compression: Exponent in (0, 1] of the magnitudes that the networks see; phases stay. At 1, as in encodec, what
            is 40 dB quieter is 1 % of the rest, and it takes thousands of steps until it is heard; at 0.3 it is 25 %.

    Shape: audio [B, C, T] -> K logits [B C, 1, F, bins'], K lists of len(dilations) + 2 features
        [B C, filters, F, bins'].

    Raises:
        ValueError: A setting makes no sense; or the audio is shorter than the longest window.
    """

    def __init__(
        self,
        filters: int = 32,
        windows: list[int] | tuple[int, ...] = (2048, 1024, 512, 256, 128),
        kernel: list[int] | tuple[int, ...] = (3, 9),
        dilations: list[int] | tuple[int, ...] = (1, 2, 4),
        negative_slope: float = 0.2,
        compression: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < compression <= 1:
            raise ValueError(f"expected a compression in (0, 1], got {compression}")
        if not windows or min(windows) < 4 or any(window % 4 for window in windows):
            raise ValueError(f"expected windows that are multiples of 4 samples, got {list(windows)}")
        if len(kernel) != 2 or any(size % 2 == 0 for size in kernel):
            raise ValueError(f"expected a kernel of two odd sizes, got {list(kernel)}")
        self.windows = list(windows)
        self.sub_discriminators = nn.ModuleList(
            _STFTScale(filters, window, (kernel[0], kernel[1]), list(dilations), negative_slope, compression)
            for window in windows
        )
        self.to(memory_format=torch.channels_last)

    @property
    def minimum_samples(self) -> int:
        """The longest window: nothing is padded."""
        return max(self.windows)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio)
        if audio.shape[-1] < self.minimum_samples:
            raise ValueError(
                f"expected audio at least as long as the discriminator's STFT window of {self.minimum_samples} "
                f"samples, got {audio.shape[-1]} samples"
            )
        return judge(self.sub_discriminators, audio.flatten(0, 1))


class _STFTScale(nn.Module):
    """One window of `MultiScaleSTFTDiscriminator`. Shape: audio [N, T] -> logits [N, 1, F, bins'], features."""

    def __init__(
        self,
        filters: int,
        window: int,
        kernel: tuple[int, int],
        dilations: list[int],
        negative_slope: float,
        compression: float,
    ) -> None:
        super().__init__()
        self.negative_slope, self.compression = negative_slope, compression
        self.stft = STFT(window, window // 4, normalized=True)
        frames, bins = kernel
        self.convs = nn.ModuleList(
            [
                NarrowConv2d(2, filters, kernel),
                *(
                    weight_norm(
                        nn.Conv2d(
                            filters,
                            filters,
                            kernel,
                            stride=(1, 2),
                            dilation=(dilation, 1),
                            padding=(frames // 2 * dilation, bins // 2),
                        )
                    )
                    for dilation in dilations
                ),
                weight_norm(nn.Conv2d(filters, filters, (frames, frames), padding=frames // 2)),
            ]
        )
        self.output = weight_norm(nn.Conv2d(filters, 1, (frames, frames), padding=frames // 2))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectra = self.stft(audio).unflatten(-1, (-1, 2))
        if self.compression < 1:
            power = spectra.square().sum(-1, keepdim=True) + _SILENCE
            spectra = spectra * power ** ((self.compression - 1) / 2)
        # [N, F, bins, 2] seen as [N, 2, F, bins] has the strides of channels_last already.
        return through(self.convs, self.output, spectra.permute(0, 3, 1, 2), self.negative_slope)


def judge(scales: nn.ModuleList, signals: Tensor) -> DiscriminatorOutput:
    """Collects the verdict of each sub-discriminator.

    Shape: signals [N, T] -> K logits, K lists of features.
    """
    verdicts = [scale(signals) for scale in scales]
    return DiscriminatorOutput([logits for logits, _ in verdicts], [features for _, features in verdicts])


def through(
    convs: nn.ModuleList, output: nn.Module, signal: Tensor, negative_slope: float
) -> tuple[Tensor, list[Tensor]]:
    """Runs a signal through the layers of a sub-discriminator, keeping the output of every leaky ReLU.

    Shape: signal [N, channels, *] -> logits [N, 1, *], features.
    """
    features = []
    for conv in convs:
        # In place: a convolution's gradients do not need its output, so one tensor a layer is kept and not two.
        signal = F.leaky_relu(conv(signal), negative_slope, inplace=True)
        features.append(signal)
    return output(signal), features
