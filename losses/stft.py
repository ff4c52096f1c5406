"""The short-time Fourier transform of the spectral losses and the discriminators.

The last axis interleaves real and imaginary parts. Complex arithmetic in autograd takes about a third more time on a
CPU. The gradient is one inverse real FFT, while autograd pads to a full complex one. Each frame is contiguous, so a
spectrogram viewed as an image [B, 2, F, bins] is `channels_last` without a copy.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.inputs import at_least_float32, reflect_pad, without_autocast

__all__ = ["STFT", "centred_power"]


class STFT(nn.Module):
    """Hann-windowed short-time Fourier transform without padding, in float32 under any autocast.

    Args:
        window_samples: Length of the Hann window.
        hop_samples: Samples between the starts of two frames.
        fft_samples: Length of the transform (even); a shorter window is centred in it. Default: the window's length.
        normalized: Divide by the L2 norm of the window, so that white noise has the same power at every window length.

    Buffers:
        window: [fft_samples].
        ends: [2 bins], the factor of each part in the gradient; see `_Spectrum.backward`.

    Shape: audio [*, T] -> [*, F, 2 bins] with F = 1 + (T - fft) // hop and bins = fft / 2 + 1. The last axis is real,
        imaginary, real, ...

    Raises:
        ValueError: The sizes do not satisfy 0 < hop <= window <= fft with an even fft.
    """

    window: Tensor
    ends: Tensor

    def __init__(
        self, window_samples: int, hop_samples: int, fft_samples: int | None = None, normalized: bool = False
    ) -> None:
        super().__init__()
        fft = window_samples if fft_samples is None else fft_samples
        if fft % 2 or not 0 < window_samples <= fft or not 0 < hop_samples <= window_samples:
            raise ValueError(
                "expected 0 < hop_samples <= window_samples <= fft_samples and an even fft_samples, "
                f"got {hop_samples}, {window_samples} and {fft}"
            )
        self.hop_samples = hop_samples
        window = torch.hann_window(window_samples, dtype=torch.float64)
        if normalized:
            window = window / window.square().sum().sqrt()
        before = (fft - window_samples) // 2
        window = F.pad(window, (before, fft - window_samples - before))
        ends = torch.ones(fft + 2)
        ends[[0, -2]] = 2.0
        ends[[1, -1]] = 0.0
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("ends", ends, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        with without_autocast(audio):
            return _Spectrum.apply(at_least_float32(audio), self.window, self.ends, self.hop_samples)


def centred_power(stft: nn.Module, margin: int, audio: Tensor) -> Tensor:
    """Power of frames of an `STFT` that are centred on multiples of the hop, with reflection padding.

    Args:
        margin: Half of the transform's length in samples.

    Shape: audio [B, C, T] with T > margin -> [B C, F, bins].
    """
    parts = stft(reflect_pad(at_least_float32(audio).flatten(0, 1), margin, margin)).unflatten(-1, (-1, 2)).square()
    power: Tensor = parts[..., 0] + parts[..., 1]
    return power


class _Spectrum(torch.autograd.Function):
    """X_k = Σ_t w_t x_t exp(-2πikt/n) for k = 0 .. n/2 of every frame. It is linear in x, so only w is saved."""

    @staticmethod
    def forward(ctx: Any, audio: Tensor, window: Tensor, ends: Tensor, hop_samples: int) -> Tensor:
        ctx.save_for_backward(window, ends)
        ctx.hop_samples, ctx.samples = hop_samples, audio.shape[-1]
        frames = audio.unfold(-1, window.numel(), hop_samples) * window
        return torch.view_as_real(torch.fft.rfft(frames)).flatten(-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        # With G_k = dL/dRe X_k + i dL/dIm X_k the chain rule gives dL/dx_t = w_t Re Σ_{k=0}^{n/2} G_k exp(2πikt/n).
        # irfft sums over all n bins, and the upper half is the conjugate of the lower: inner bins count twice, bins 0
        # and n/2 once. So double the two ends and halve the sum. Im X_0 and Im X_{n/2} are 0 for every x.
        window, ends = ctx.saved_tensors
        spectrum = torch.view_as_complex((gradient * ends).unflatten(-1, (-1, 2)))
        frames = torch.fft.irfft(spectrum, n=window.numel(), norm="forward") * (0.5 * window)
        return _overlap_add(frames, ctx.hop_samples, ctx.samples), None, None, None


def _overlap_add(frames: Tensor, hop_samples: int, samples: int) -> Tensor:
    """Adds frames at their positions in a signal, one block of a hop's length after the other.

    Shape: frames [*, F, n] -> [*, T].
    """
    count = frames.shape[-2]
    blocks = -(-frames.shape[-1] // hop_samples)
    total = frames.new_zeros(*frames.shape[:-2], count + blocks - 1, hop_samples)
    for block in range(blocks):
        part = frames[..., block * hop_samples : (block + 1) * hop_samples]
        total[..., block : block + count, : part.shape[-1]] += part
    signal = total.flatten(-2)
    return F.pad(signal, (0, samples - signal.shape[-1]))
