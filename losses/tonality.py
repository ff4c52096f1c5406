"""A loss for tonal artefacts: decoders that write treble as tones instead of noise."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.inputs import check_pair
from losses.ranges import PositiveFloat, Size
from losses.stft import STFT, reflected_squares

__all__ = ["Tonality"]


class Tonality(nn.Module):
    """How much more tonal the estimate is than the reference, mean over bands. This project's own loss.

    Mel losses compare the energies of treble bands, not their phases. A decoder can fill such a band with a few tones
    more easily than with noise. Let P_k be the power of bin k, averaged over long windows. The tonality of a band is

        log(mean P_k² / (mean P_k)²)

    with means over the bins of the band. It is 0 if all bins have equal power and log(band_bins) if one bin has all
    the power. Noise has log(1 + 1 / n) for n independent windows; at an overlap of three quarters n is about half the
    number of windows. The loss is the mean of max(0, tonality(estimate) - tonality(reference)), so a harmonic sound
    may stay harmonic. For two different noises it is slightly above 0.

    Args:
        window_samples: Length of the Hann window, a multiple of 4. Tones of a decoder are one codec frame rate apart.
            The main lobe, 4 bins, should be narrower than half that distance.
        band_bins: Bins per band; half the window is a multiple of it.
        floor: Power added to every bin, so that bins far below it count as equal. It is the variance of white noise
            with that power: 1e-8 is -80 dBFS.

    Attributes:
        may_increase: True. The loss is near 0 until the decoder produces treble, so its rise is not a divergence.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar; T is at least `minimum_samples`, one window.

    Raises:
        ValueError: A setting is out of range, or the signals have the wrong shape.
    """

    may_increase = True

    def __init__(self, window_samples: Size = 4096, band_bins: Size = 64, floor: PositiveFloat = 1e-8) -> None:
        super().__init__()
        if window_samples < 4 or window_samples % 4:
            raise ValueError(f"expected window_samples that are a multiple of 4, got {window_samples}")
        if band_bins < 2 or window_samples // 2 % band_bins:
            raise ValueError(
                f"expected band_bins of at least 2 that divide the {window_samples // 2} bins, got {band_bins}"
            )
        if floor <= 0:
            raise ValueError(f"expected floor > 0, got {floor}")
        self.stft = STFT(window_samples, window_samples // 4, normalized=True)
        self.band_bins = band_bins
        self.floor = floor
        self.minimum_samples = window_samples

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        squares = reflected_squares([self.stft], [0], estimate, reference)
        estimated, target = self._tonality(torch.stack([each.mean(-2) for (each,) in squares]))
        return F.relu(estimated - target).mean()

    def _tonality(self, squares: Tensor) -> Tensor:
        """Shape: squares [*, 2 bins], means over frames -> [*, bands]."""
        power = squares.unflatten(-1, (-1, 2)).sum(-1) + self.floor
        bands = power[..., :-1].unflatten(-1, (-1, self.band_bins))  # without the bin at the Nyquist frequency
        return (bands / bands.mean(-1, keepdim=True)).square().mean(-1).log()
