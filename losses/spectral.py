"""Distances between two spectrograms: multi-scale mel (EnCodec, audiocraft) and multi-resolution STFT.

All modules compute in float32 under any autocast. No gradient flows to the reference. Windows and filters are buffers
that are not saved.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Literal, cast, get_args

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional as F

from losses.inputs import check_audio, check_pair, without_autocast
from losses.means import mean_weights, row_norms
from losses.mel_filters import mel_filters
from losses.ranges import PositiveFloat, SampleRate, Size
from losses.stft import STFT, SquaresFilters, centred_powers, reflected_squares

__all__ = ["MultiResolutionSTFT", "MultiScaleMel", "mel_distance"]

LogDistance = Literal["l2", "mse"]


class MultiScaleMel(nn.Module):
    """L1 distance of mel power spectrograms plus alpha times L2 distance of their logarithms, over several windows.

    The frequency loss of EnCodec (Défossez et al. 2022, equation 1, after Gritsenko et al. 2020): windows of
    2^5 .. 2^11 samples, hop a quarter of the window, alpha = 1. The paper leaves open which spectrogram it uses, where
    the logarithm is applied and how the norms are reduced. This class follows audiocraft. Exponents 6 .. 10,
    `f_min_hz=64` and `log_distance="mse"` give audiocraft's loss exactly. All terms are averaged:
    Σ_i (L1_i + alpha_i L2_i) / Σ_i (1 + alpha_i).

    Args:
        sample_rate: In Hz.
        window_exponents: One resolution for each e, with a window of 2^e samples.
        mels: Number of HTK mel filters. At short windows most of them contain no bin; those count as equal.
        f_min_hz: Lower edge of the lowest filter.
        f_max_hz: Upper edge of the highest filter. Default: half the sampling rate.
        alpha: Weight of the logarithmic term, for all resolutions or one for each.
        log_distance: `l2` is the root mean square over the filters of a frame, averaged over frames. `mse` is the
            mean square.
        normalized: Divide spectra by the L2 norm of the window.
        floor: Added to the power before the logarithm (base 10).

    Attributes:
        minimum_samples: Reflection padding needs one sample more than it reflects.
        window_samples: The longest window.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar; T is at least `minimum_samples`.

    Raises:
        ValueError: A setting is out of range, or the signals have the wrong shape.
    """

    def __init__(
        self,
        sample_rate: SampleRate,
        window_exponents: Sequence[Annotated[int, Ge(2), Le(17)]],
        mels: Size = 64,
        f_min_hz: float = 0.0,
        f_max_hz: float | None = None,
        alpha: float | Sequence[float] = 1.0,
        log_distance: LogDistance = "l2",
        normalized: bool = True,
        floor: PositiveFloat = 1e-5,
    ) -> None:
        super().__init__()
        if log_distance not in get_args(LogDistance):
            raise ValueError(f"expected log_distance to be one of {get_args(LogDistance)}, got {log_distance!r}")
        if not window_exponents or min(window_exponents) < 2:
            raise ValueError(f"expected one or more window_exponents of at least 2, got {window_exponents}")
        self.alphas = list(alpha) if isinstance(alpha, Sequence) else [alpha] * len(window_exponents)
        if len(self.alphas) != len(window_exponents) or min(self.alphas) < 0:
            raise ValueError(f"expected an alpha >= 0 for each of {len(window_exponents)} windows, got {alpha}")
        if floor <= 0:
            raise ValueError(f"expected floor > 0, got {floor}")
        top = sample_rate // 2 if f_max_hz is None else f_max_hz
        if not 0 <= f_min_hz < top <= sample_rate / 2:
            raise ValueError(f"expected 0 <= f_min_hz < f_max_hz <= {sample_rate / 2}, got {f_min_hz} and {top}")
        self.mels, self.log_distance, self.floor = mels, log_distance, floor
        resolutions = [_MelFilters(sample_rate, 2**e, mels, f_min_hz, top, normalized, floor) for e in window_exponents]
        self.resolutions = nn.ModuleList(resolutions)
        self.margins = [resolution.margin_samples for resolution in resolutions]
        self.minimum_samples = max(self.margins) + 1
        self.window_samples = 2 ** max(window_exponents)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        with without_autocast(estimate):
            powers = self._powers(estimate, reference)
            shapes = [power.shape for power in powers[0]]
            joined = [_joined(each) for each in powers]
            return self._distance(joined, [each.log10() for each in joined], shapes)

    @torch.no_grad()
    def constant_baseline(self, reference: Tensor) -> Tensor:
        """Loss of the best constant spectrum at every resolution: one value per filter for the whole batch.

        The linear term uses the median, the logarithmic term the mean of the logarithms. No single spectrum is best
        for both, so the result with `mse` is a lower bound. With `l2` the best value would be a geometric median; the
        mean costs a few percent more.

        Shape: reference [B, C, T] -> scalar; T is at least `minimum_samples`.
        """
        check_audio(reference, self.minimum_samples)
        with without_autocast(reference):
            (powers,) = self._powers(reference)
            logarithms = [power.log10() for power in powers]
            medians = _joined([_median_spectrum(power) for power in powers])
            means = _joined([_mean_spectrum(logarithm) for logarithm in logarithms])
            shapes = [power.shape for power in powers]
            return self._distance([medians, _joined(powers)], [means, _joined(logarithms)], shapes)

    def _powers(self, *signals: Tensor) -> list[list[Tensor]]:
        """Powers plus the floor. Shape: signals [B, C, T] -> for each signal, for each resolution [B C F, filled]."""
        resolutions = [cast(_MelFilters, each) for each in self.resolutions]
        stfts = [each.stft for each in resolutions]
        filters = [SquaresFilters(each.filters, each.floor, each.gradient_filters) for each in resolutions]
        powers = reflected_squares(stfts, self.margins, *signals, fill=True, filters=filters)
        return [[power.flatten(0, 1) for power in each] for each in powers]

    def _distance(self, powers: Sequence[Tensor], logarithms: Sequence[Tensor], shapes: Sequence[torch.Size]) -> Tensor:
        """The loss of the spectra of all resolutions, one after the other, so that a few kernels serve all of them.

        Args:
            powers, logarithms: Of estimate and reference.
            shapes: [rows, filters] of each resolution. Filters without a bin are left out; they count as equal.

        Shape: powers and logarithms [sum of rows * filters] -> scalar.
        """
        total = sum(1 + alpha for alpha in self.alphas)
        filled = [filters / self.mels / total for _, filters in shapes]
        sizes = tuple(shape.numel() for shape in shapes)
        about = powers[0].device, powers[0].dtype
        linear = ((powers[0] - powers[1]).abs() * mean_weights(sizes, tuple(filled), *about)).sum()
        difference = logarithms[0] - logarithms[1]
        if self.log_distance == "mse":
            factors = tuple(alpha * share for alpha, share in zip(self.alphas, filled, strict=True))
            return linear + (difference.square() * mean_weights(sizes, factors, *about)).sum()
        factors = tuple(alpha / total / self.mels**0.5 for alpha in self.alphas)
        weights = mean_weights(tuple(rows for rows, _ in shapes), factors, *about)
        return linear + (row_norms(difference, shapes) * weights).sum()


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def mel_distance(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """The metric "mel distance": the multi-scale mel loss with audiocraft's settings; lower is better.

    Args:
        estimate: Output of the codec.
        reference: Input of the codec.
        sample_rate: Of both, in Hz.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.

    Raises:
        ValueError: The shapes differ or are not [B, C, T], or the signals are too short.
    """
    return _mel_distance(sample_rate, estimate.device)(estimate, reference)


@functools.lru_cache(maxsize=8)
def _mel_distance(sample_rate: int, device: torch.device) -> MultiScaleMel:
    with torch.inference_mode(False):  # buffers created in inference mode cannot be used for gradients
        loss = MultiScaleMel(sample_rate, window_exponents=[6, 7, 8, 9, 10], f_min_hz=64.0, log_distance="mse")
        return loss.to(device)


class _MelFilters(nn.Module):
    """A spectrum with hop n/4 and ceil(T / hop) frames, and mel filters of its squared parts, as in audiocraft.

    (n - hop) / 2 samples are reflected at either end, then zeros fill the last frame. Filters without a bin are left
    out.

    Buffers: see `SquaresFilters`. Each row of `filters` is there twice, for the squared real and imaginary part.
    """

    filters: Tensor
    floor: Tensor
    gradient_filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        window_samples: int,
        mels: int,
        f_min_hz: float,
        f_max_hz: float,
        normalized: bool,
        floor: float,
    ) -> None:
        super().__init__()
        self.hop_samples = window_samples // 4
        self.margin_samples = (window_samples - self.hop_samples) // 2
        self.stft = STFT(window_samples, self.hop_samples, normalized=normalized)
        filters = mel_filters(sample_rate, window_samples, mels, f_min_hz, f_max_hz)
        filters = filters[:, filters.amax(dim=0) > 0]
        if not filters.numel():
            raise ValueError(
                f"expected a bin of a {window_samples}-sample window between {f_min_hz} and {f_max_hz} Hz, "
                f"got bins {sample_rate / window_samples} Hz apart"
            )
        names = ("filters", "floor", "gradient_filters")
        for name, value in zip(
            names, SquaresFilters.of(filters.repeat_interleave(2, dim=0), floor, self.stft), strict=True
        ):
            self.register_buffer(name, value, persistent=False)


class MultiResolutionSTFT(nn.Module):
    """Spectral convergence plus log-magnitude L1, mean over resolutions (Yamamoto et al. 2020, equations 3 to 6).

    As in the authors' code, the convergence is one ratio of Frobenius norms over the batch, and frames are centred with
    reflection padding. The power is at least 1e-7, so silence has finite values and gradients.

    Args:
        ffts: Length of each transform in samples (even).
        hops: Hop of each resolution in samples.
        windows: Length of each Hann window in samples, at most that of its transform.

    Attributes:
        minimum_samples: Reflection padding needs one sample more than it reflects.
        window_samples: The longest window.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar; T is at least `minimum_samples`.

    Raises:
        ValueError: A setting is out of range, or the signals have the wrong shape.
    """

    def __init__(
        self,
        ffts: Sequence[Size] = (1024, 2048, 512),
        hops: Sequence[Size] = (120, 240, 50),
        windows: Sequence[Size] = (600, 1200, 240),
    ) -> None:
        super().__init__()
        if not len(ffts) == len(hops) == len(windows) or not ffts:
            raise ValueError(
                f"expected as many hops and windows as ffts, got {len(ffts)} ffts, {len(hops)} hops, "
                f"{len(windows)} windows"
            )
        self.minimum_samples = max(ffts) // 2 + 1
        self.window_samples = max(windows)
        self.resolutions = nn.ModuleList(
            STFT(window, hop, fft_samples=fft) for fft, hop, window in zip(ffts, hops, windows, strict=True)
        )

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        with without_autocast(estimate):
            pairs = zip(*_magnitudes(self.resolutions, estimate, reference), strict=True)
            return torch.stack([_convergence(*pair) + _log_magnitude(*pair) for pair in pairs]).mean()

    @torch.no_grad()
    def constant_baseline(self, reference: Tensor) -> Tensor:
        """Loss of the best constant spectrum at every resolution: one value per bin for the whole batch.

        The spectral convergence uses the mean of the magnitudes, the logarithmic term their median. No single spectrum
        is best for both, so this is a lower bound.

        Shape: reference [B, C, T] -> scalar; T is at least `minimum_samples`.
        """
        check_audio(reference, self.minimum_samples)
        with without_autocast(reference):
            terms = []
            for magnitude in _magnitudes(self.resolutions, reference)[0]:
                convergence = _convergence(_mean_spectrum(magnitude), magnitude)
                terms.append(convergence + _log_magnitude(_median_spectrum(magnitude), magnitude))
            return torch.stack(terms).mean()


def _convergence(estimate: Tensor, reference: Tensor) -> Tensor:
    return torch.linalg.vector_norm(reference - estimate) / torch.linalg.vector_norm(reference)


def _log_magnitude(estimate: Tensor, reference: Tensor) -> Tensor:
    return F.l1_loss(estimate.log(), reference.log())


def _magnitudes(stfts: nn.ModuleList, *signals: Tensor) -> list[list[Tensor]]:
    """Shape: signals [B, C, T] -> for each signal, for each resolution [B C, F, bins]."""
    return [[power.clamp(min=1e-7).sqrt() for power in powers] for powers in centred_powers(stfts, *signals)]


def _mean_spectrum(spectra: Tensor) -> Tensor:
    """Shape: [*, bins] -> the same, each entry the mean of its bin."""
    return spectra.flatten(0, -2).mean(dim=0).expand_as(spectra)


def _median_spectrum(spectra: Tensor) -> Tensor:
    """Shape: [*, bins] -> the same, each entry the median of its bin."""
    return spectra.flatten(0, -2).median(dim=0).values.expand_as(spectra)
