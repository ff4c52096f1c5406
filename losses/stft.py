"""The short-time Fourier transform of the spectral losses and the discriminators.

The last axis interleaves real and imaginary parts. Complex arithmetic in autograd takes about a third more time on a
CPU. The gradient is one inverse real FFT, while autograd pads to a full complex one. Each frame is contiguous, so a
spectrogram viewed as an image [B, 2, F, bins] is `channels_last` without a copy.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from losses.inputs import at_least_float32, reflect_pad, without_autocast

__all__ = ["STFT", "centred_powers", "reflected_squares"]


class STFT(nn.Module):
    """Hann-windowed short-time Fourier transform without padding, in float32 under any autocast.

    Args:
        window_samples: Length of the Hann window.
        hop_samples: Samples between the starts of two frames.
        fft_samples: Length of the transform (even); a shorter window is centred in it. Default: the window's length.
        normalized: Divide by the L2 norm of the window, so that white noise has the same power at every window length.

    Buffers:
        window: [fft_samples].
        ends: [2 bins], the factor of each part in the gradient; see `_gradient`.
        squares_ends: [2 bins], the same for the gradient through squares.

    Shape: audio [*, T] -> [*, F, 2 bins] with F = 1 + (T - fft) // hop and bins = fft / 2 + 1. The last axis is real,
        imaginary, real, ...

    Raises:
        ValueError: The sizes do not satisfy 0 < hop <= window <= fft with an even fft.
    """

    window: Tensor
    ends: Tensor
    squares_ends: Tensor

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
        ends = torch.full((fft + 2,), 0.5)
        ends[[0, -2]] = 1.0
        ends[[1, -1]] = 0.0
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("ends", ends, persistent=False)
        self.register_buffer("squares_ends", 2 * ends, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        with without_autocast(audio):
            return _Spectrum.apply(at_least_float32(audio), self)


class SquaresFilters(NamedTuple):
    """A constant matrix that squared parts of a spectrum are multiplied by, and what is added to the products."""

    weights: Tensor  # [2 bins, n]
    floor: Tensor  # [n]
    gradient: Tensor  # [n, 2 bins], from a gradient at the products to one at the spectrum, divided by the spectrum

    @classmethod
    def of(cls, weights: Tensor, floor: float, stft: STFT) -> "SquaresFilters":
        """Shape: weights [2 bins, n]."""
        gradient = (stft.squares_ends[:, None] * weights).T.contiguous()
        return cls(weights, weights.new_full((weights.shape[1],), floor), gradient)

    def __call__(self, squares: Tensor) -> Tensor:
        """Shape: [N, F, 2 bins] -> [N, F, n]."""
        rows = torch.addmm(self.floor, squares.flatten(0, 1), self.weights)
        return rows.view(*squares.shape[:2], -1)


def reflected_squares(
    stfts: Iterable[nn.Module],
    margins: Sequence[int],
    *signals: Tensor,
    fill: bool = False,
    filters: Sequence[SquaresFilters] | None = None,
) -> list[list[Tensor]]:
    """Squared real and imaginary parts of the spectra of several signals of one shape, at several resolutions.

    Gradients flow to the first signal only. The signals are padded once for all resolutions and transformed together,
    which saves kernel launches.

    Args:
        stfts: An `STFT` for each resolution.
        margins: Samples to reflect at either end, for each resolution; the signals are longer than that.
        signals: The estimate, the reference.
        fill: Fill the last frame with zeros. Otherwise samples after the last whole frame are left out.
        filters: For each resolution a matrix that the squares are multiplied by.

    Shape: signals [B, C, T] -> for each signal a list of [B C, F, 2 bins], or of [B C, F, n] with filters.
    """
    widest = max(margins)
    padded = [at_least_float32(signal).flatten(0, 1) for signal in signals]
    if widest:
        padded = [reflect_pad(signal, widest, widest) for signal in padded]
    parts = []
    for number, (stft, margin) in enumerate(zip(cast(Iterable[STFT], stfts), margins, strict=True)):
        samples = signals[0].shape[-1] + 2 * margin
        missing = (len(stft.window) - samples) % stft.hop_samples if fill else 0
        parts.append(_Part(stft, widest - margin, samples, missing, None if filters is None else filters[number]))
    with without_autocast(signals[0]):
        squares = _Squares.apply(parts, *padded)
    return [list(squares[first : first + len(parts)]) for first in range(0, len(squares), len(parts))]


def centred_powers(stfts: Iterable[nn.Module], *signals: Tensor) -> list[list[Tensor]]:
    """Powers of frames that are centred on multiples of the hop; see `reflected_squares`.

    Shape: signals [B, C, T], longer than half of each transform -> for each signal a list of [B C, F, bins].
    """
    resolutions = list(stfts)
    margins = [len(cast(STFT, stft).window) // 2 for stft in resolutions]
    return [[_power(each) for each in squares] for squares in reflected_squares(resolutions, margins, *signals)]


def _power(squares: Tensor) -> Tensor:
    """Shape: [*, 2 bins] -> [*, bins]."""
    parts = squares.unflatten(-1, (-1, 2))
    return parts[..., 0] + parts[..., 1]


class _Spectrum(torch.autograd.Function):
    """X_k = Σ_t w_t x_t exp(-2πikt/n) for k = 0 .. n/2 of every frame. It is linear in x, so nothing is saved."""

    @staticmethod
    def forward(ctx: Any, audio: Tensor, stft: STFT) -> Tensor:
        ctx.stft, ctx.samples = stft, audio.shape[-1]
        return _spectrum(audio, stft)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gradient(gradient, ctx.stft, ctx.samples), None


class _Part(NamedTuple):
    """The part of a signal that a transform gets, followed by zeros."""

    stft: STFT
    start: int  # in samples
    samples: int
    missing: int  # number of zeros
    filters: SquaresFilters | None


class _Squares(torch.autograd.Function):
    """Squares of the real and imaginary parts of `_Spectrum`, multiplied by the filters of the part if it has any.

    Shape: signals [N, T] -> for each signal, for each part [N, F, 2 bins or n]; gradients flow to the first signal.
    """

    @staticmethod
    def forward(ctx: Any, parts: Sequence[_Part], *signals: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.parts, ctx.count, ctx.samples = parts, len(signals), signals[0].shape[-1]
        joint = torch.cat(signals) if len(signals) > 1 else signals[0]
        spectra = []
        for stft, start, samples, missing, _ in parts:
            audio = joint[:, start : start + samples]
            spectra.append(_spectrum(F.pad(audio, (0, missing)) if missing else audio, stft))
        ctx.save_for_backward(*(spectrum[: len(signals[0])] for spectrum in spectra))
        results = torch._foreach_mul(spectra, spectra)
        filtered = [
            each if part.filters is None else part.filters(each) for part, each in zip(parts, results, strict=True)
        ]
        squares = [each.chunk(len(signals)) for each in filtered]
        first, *others = ([each[number] for each in squares] for number in range(len(signals)))
        ctx.mark_non_differentiable(*(square for group in others for square in group))
        return (*first, *(square for group in others for square in group))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        used = [
            (part, spectrum, gradient)
            for part, spectrum, gradient in zip(ctx.parts, ctx.saved_tensors, gradients, strict=False)
            if gradient is not None
        ]
        if not used:
            return (None,) * (1 + ctx.count)
        at_squares = [each if part.filters is None else each @ part.filters.gradient for part, _, each in used]
        products = torch._foreach_mul(at_squares, [spectrum for _, spectrum, _ in used])
        total: Tensor | None = None
        for (stft, start, samples, missing, filters), product in zip(
            (part for part, *_ in used), products, strict=True
        ):
            at_spectrum = product.mul_(stft.squares_ends) if filters is None else product
            found = _inverse(at_spectrum, stft, samples + missing)[:, :samples]
            if total is not None:
                total[:, start : start + samples] += found
            else:
                after = ctx.samples - start - samples
                total = F.pad(found, (start, after)) if start or after else found
        return (None, total, *[None] * (ctx.count - 1))


def _spectrum(audio: Tensor, stft: STFT) -> Tensor:
    """Shape: [*, T] -> [*, F, 2 bins]."""
    frames = audio.unfold(-1, len(stft.window), stft.hop_samples) * stft.window
    return torch.view_as_real(torch.fft.rfft(frames)).flatten(-2)


def _gradient(gradient: Tensor, stft: STFT, samples: int) -> Tensor:
    """Gradient at the signal from the gradient at its spectrum.

    With G_k = dL/dRe X_k + i dL/dIm X_k the chain rule gives dL/dx_t = w_t Re Σ_{k=0}^{n/2} G_k exp(2πikt/n). irfft
    sums over all n bins, and the upper half is the conjugate of the lower: inner bins count twice, bins 0 and n/2 once.
    So the inner bins are halved. Im X_0 and Im X_{n/2} are 0 for every x.

    Shape: gradient [*, F, 2 bins] -> [*, samples].
    """
    return _inverse(gradient * stft.ends, stft, samples)


def _inverse(parts: Tensor, stft: STFT, samples: int) -> Tensor:
    """As `_gradient`, from halved inner bins. Shape: parts [*, F, 2 bins] -> [*, samples]."""
    spectrum = torch.view_as_complex(parts.unflatten(-1, (-1, 2)))
    frames = torch.fft.irfft(spectrum, n=len(stft.window), norm="forward") * stft.window
    return _overlap_add(frames, stft.hop_samples, samples)


def _overlap_add(frames: Tensor, hop_samples: int, samples: int) -> Tensor:
    """Adds frames at their positions in a signal.

    Shape: frames [*, F, n] -> [*, samples].
    """
    *batch, count, length = frames.shape
    if frames.device.type != "cpu":  # one kernel
        columns = frames.reshape(-1, count, length).mT
        return F.fold(columns, (1, samples), (1, length), stride=(1, hop_samples)).view(*batch, samples)
    # One block of a hop's length after the other, because torch's fold is slow on a CPU.
    blocks = -(-length // hop_samples)
    total = frames.new_zeros(*batch, count + blocks - 1, hop_samples)
    for block in range(blocks):
        part = frames[..., block * hop_samples : (block + 1) * hop_samples]
        total[..., block : block + count, : part.shape[-1]] += part
    signal = total.flatten(-2)
    return signal if signal.shape[-1] == samples else F.pad(signal, (0, samples - signal.shape[-1]))
