"""The short-time Fourier transform that the spectral losses and the discriminator share.

Frames lie in rows, so a frame's spectrum is contiguous: seen as an image [B, 2, F, bins] it is `channels_last`
without a copy. Real and imaginary parts are interleaved real numbers, because complex arithmetic in autograd costs
about a third more on a CPU; and the gradient is one inverse real FFT, where autograd pads to a full complex one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["STFT", "wide", "without_autocast"]


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which operations on the device of `tensor` keep their precision: bfloat16 has 8 bits, too few
    for sums over a second of audio."""
    return torch.autocast(tensor.device.type, enabled=False)


def wide(tensor: Tensor) -> Tensor:
    """Converts float16 and bfloat16 to float32, and leaves float32 and float64 alone.

    Shape: [*] -> [*].
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class STFT(nn.Module):
    """Hann-windowed short-time Fourier transform without padding, in float32 under any autocast.

    Args:
        window_samples: Length of the Hann window.
        hop_samples: Samples between the starts of two frames.
        fft_samples: Length of the transform (even); a shorter window lies in its middle. Default: the window's length.
        normalized: Divide by the window's L2 norm, so that white noise has one power at every window length.

    Buffers:
        window: [fft_samples].
        ends: [2 bins], the factor of each part in the gradient; see `_Spectrum.backward`.

    Shape: audio [*, T] -> [*, F, 2 bins] with F = 1 + (T - fft) // hop and bins = fft / 2 + 1; along the last axis
        real, imaginary, real, ...
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
            return _Spectrum.apply(wide(audio), self.window, self.ends, self.hop_samples)


class _Spectrum(torch.autograd.Function):
    """X_k = Σ_t w_t x_t exp(-2πikt/n) for k = 0 .. n/2, of every frame; linear in x, so nothing but w is kept."""

    @staticmethod
    def forward(ctx: Any, audio: Tensor, window: Tensor, ends: Tensor, hop_samples: int) -> Tensor:
        ctx.save_for_backward(window, ends)
        ctx.hop_samples, ctx.samples = hop_samples, audio.shape[-1]
        frames = audio.unfold(-1, window.numel(), hop_samples) * window
        return torch.view_as_real(torch.fft.rfft(frames)).flatten(-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        # With G_k = dL/dRe X_k + i dL/dIm X_k the chain rule gives dL/dx_t = w_t Re Σ_{k=0}^{n/2} G_k exp(2πikt/n).
        # irfft sums over all n bins, the upper half being the conjugate of the lower: every inner bin counts twice,
        # 0 and n/2 once. Hence twice the ends, and half the whole. Im X_0 and Im X_{n/2} are 0 whatever x is.
        window, ends = ctx.saved_tensors
        spectrum = torch.view_as_complex((gradient * ends).unflatten(-1, (-1, 2)))
        frames = torch.fft.irfft(spectrum, n=window.numel(), norm="forward") * (0.5 * window)
        return _overlap_add(frames, ctx.hop_samples, ctx.samples), None, None, None


def _overlap_add(frames: Tensor, hop_samples: int, samples: int) -> Tensor:
    """Adds up frames [*, F, n] at their places in a signal [*, T], block after block of a hop's length."""
    count = frames.shape[-2]
    blocks = -(-frames.shape[-1] // hop_samples)
    total = frames.new_zeros(*frames.shape[:-2], count + blocks - 1, hop_samples)
    for block in range(blocks):
        part = frames[..., block * hop_samples : (block + 1) * hop_samples]
        total[..., block : block + count, : part.shape[-1]] += part
    signal = total.flatten(-2)
    return F.pad(signal, (0, samples - signal.shape[-1]))
