"""The multi-scale STFT discriminator of EnCodec (Défossez et al. 2022, section 3.4, figure 2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.parametrizations import weight_norm

from losses.discriminators.layers import forward_features, forward_sub_discriminators
from losses.inputs import check_audio
from losses.means import constant
from losses.protocols import DiscriminatorOutput
from losses.ranges import Fraction, Size
from losses.stft import STFT

__all__ = ["MultiScaleSTFTDiscriminator"]

_SILENCE = 1e-8  # power of a bin; below it compression is linear and its gradient bounded


class MultiScaleSTFTDiscriminator(nn.Module):
    """One convolutional network per window, on the complex spectrogram.

    The paper states 3 x 8 kernels. The code of encodec and audiocraft has 3 x 9 kernels and no weight normalisation in
    the first layer, and so does this class. Spectra are float32; convolutions run in the caller's autocast. Weights and
    activations are `channels_last`: on a CPU this is a third faster in float32 and three times as fast in bfloat16.

    Args:
        filters: Channels of every hidden layer.
        windows: Hann windows in samples, multiples of 4, one network each; the hop is a quarter. The paper doubles them
            at 48 kHz.
        kernel: Size of the hidden layers' kernels in frames and bins (odd).
        dilations: Dilations in frames, one layer with stride 2 in bins for each.
        negative_slope: Slope of the leaky ReLU: 0.2 in encodec, 0.3 in audiocraft's configuration.
        compression: Exponent in (0, 1] of the magnitudes that the networks get; phases are kept. With 1, as in
            encodec, a component 40 dB below the rest has 1 % of its magnitude; with 0.3 it has 25 %.

    Shape: audio [B, C, T] -> K logits [B C, 1, F, bins'], K lists of len(dilations) + 2 features
        [B C, filters, F, bins'].

    Raises:
        ValueError: A setting is out of range, or the audio is shorter than the longest window.
    """

    def __init__(
        self,
        filters: Size = 32,
        windows: Sequence[Size] = (2048, 1024, 512, 256, 128),
        kernel: Sequence[Size] = (3, 9),
        dilations: Sequence[Size] = (1, 2, 4),
        negative_slope: Fraction = 0.2,
        compression: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < compression <= 1:
            raise ValueError(f"expected a compression in (0, 1], got {compression}")
        if not windows or min(windows) < 4 or any(window % 4 for window in windows):
            raise ValueError(f"expected windows that are multiples of 4 samples, got {list(windows)}")
        if len(kernel) != 2 or any(size < 1 or size % 2 == 0 for size in kernel):
            raise ValueError(f"expected a kernel of two odd sizes, got {list(kernel)}")
        self.sub_discriminators = nn.ModuleList(
            _SpectrogramNetwork(filters, window, (kernel[0], kernel[1]), dilations, negative_slope, compression)
            for window in windows
        )
        self.minimum_samples = max(windows)  # nothing is padded

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        check_audio(audio, self.minimum_samples)
        return forward_sub_discriminators(self.sub_discriminators, audio)


class _SpectrogramNetwork(nn.Module):
    """The network of one window. Shape: audio [N, T] -> logits [N, 1, F, bins'], features."""

    def __init__(
        self,
        filters: int,
        window: int,
        kernel: tuple[int, int],
        dilations: Sequence[int],
        negative_slope: float,
        compression: float,
    ) -> None:
        super().__init__()
        self.negative_slope, self.compression = negative_slope, compression
        self.stft = STFT(window, window // 4, normalized=True)
        frames, bins = kernel
        strided = (
            nn.Conv2d(
                filters,
                filters,
                kernel,
                stride=(1, 2),
                dilation=(dilation, 1),
                padding=(frames // 2 * dilation, bins // 2),
            )
            for dilation in dilations
        )
        square = (frames, frames), frames // 2  # kernel and padding
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(2, filters, kernel, padding=(frames // 2, bins // 2)),
                *(weight_norm(conv) for conv in strided),
                weight_norm(nn.Conv2d(filters, filters, square[0], padding=square[1])),
            ]
        )
        self.output = weight_norm(nn.Conv2d(filters, 1, square[0], padding=square[1]))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectra = self.stft(audio).unflatten(-1, (-1, 2))
        if self.compression < 1:
            spectra = _Compression.apply(spectra, (self.compression - 1) / 2)
        # [N, F, bins, 2] viewed as [N, 2, F, bins] has the strides of channels_last.
        return forward_features(self.convs, self.output, spectra.permute(0, 3, 1, 2), self.negative_slope)


class _Compression(torch.autograd.Function):
    """s p^a of complex bins s with power p = |s|² + floor, with half of the memory passes that autograd makes.

    On a CPU the two parts are added as vectors, because a sum over an axis of two takes four times as long.

    Shape: spectra [*, 2] -> [*, 2].
    """

    @staticmethod
    def forward(ctx: Any, spectra: Tensor, exponent: float) -> Tensor:
        real, imaginary = spectra.split(1, dim=-1)
        floor = constant((_SILENCE,), spectra.device, spectra.dtype)
        power = torch.addcmul(floor, real, real).addcmul_(imaginary, imaginary)
        gain = power**exponent
        ctx.save_for_backward(spectra, power, gain)
        ctx.exponent = exponent
        return spectra * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        spectra, power, gain = ctx.saved_tensors
        # d(s p^a) = p^a (ds + 2a s <s, ds> / p)
        (real, imaginary), slopes = spectra.split(1, dim=-1), gradient.split(1, dim=-1)
        product = (real * slopes[0]).addcmul_(imaginary, slopes[1]).div_(power)
        return torch.addcmul(gradient, spectra, product, value=2 * ctx.exponent).mul_(gain), None
