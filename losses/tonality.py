"""A loss for what spectral losses do not hear: treble that comes out as tones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import check_pair
from .stft import STFT, wide, without_autocast

__all__ = ["Tonality"]


class Tonality(nn.Module):
    """How much more tonal the estimate is than the reference, mean over bands.

    A decoder is given energies rather than phases of treble, and finds tones that fill the bands of a mel filter easier
    to make than noise. With P_k the power of bin k of a long window, mean over the windows, and the means below over
    the bins of a band, the tonality of a band is

        log (mean P_k² / (mean P_k)²)

    0 where all bins are equally loud and log `band_bins` where one has all the power (the inverse participation ratio);
    of noise, whose powers are distributed as χ² with 2n degrees of freedom if n is the number of windows that do not
    overlap, log (1 + 1 / n). The loss is the mean of max(0, tonality(estimate) - tonality(reference)): a harmonic sound
    may be as harmonic as it was.

    Args:
        window_samples: Length of the Hann window. It has to resolve the frame rate of the codec and half of it, where
            the tones are: four bins should be less.
        band_bins: Bins of a band, of which the window has a whole number.
        floor: Power that is added to each bin, of white noise with that variance, so that what nobody hears does not
            count.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar; T at least `minimum_samples`.
    """

    def __init__(self, window_samples: int = 4096, band_bins: int = 64, floor: float = 1e-8) -> None:
        super().__init__()
        if window_samples % 4 or band_bins < 2 or window_samples // 2 % band_bins:
            raise ValueError(
                f"expected bands of two bins or more and a window of a whole number of them, got {band_bins} of "
                f"{window_samples // 2}"
            )
        if floor <= 0:
            raise ValueError(f"expected floor > 0, got {floor}")
        self.stft = STFT(window_samples, window_samples // 4, normalized=True)
        self.band_bins = band_bins
        self.floor = floor
        self.minimum_samples = window_samples

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        with without_autocast(estimate):
            with torch.no_grad():
                usual = self._tonality(reference)
            return F.relu(self._tonality(estimate) - usual).mean()

    def _tonality(self, audio: Tensor) -> Tensor:
        """Shape: audio [B, C, T] -> [B, C, bands]."""
        power = self.stft(wide(audio)).unflatten(-1, (-1, 2)).square().sum(-1).mean(-2) + self.floor
        bands = power[..., :-1].unflatten(-1, (-1, self.band_bins))  # that of half the rate is in none
        return (bands.square().mean(-1) / bands.mean(-1).square()).log()
