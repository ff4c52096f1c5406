"""A loss for what spectral losses do not hear: treble that comes out as tones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import check_pair
from .stft import STFT

__all__ = ["Tonality"]


class Tonality(nn.Module):
    """How much more tonal the estimate is than the reference, mean over bands.

    A decoder is given energies rather than phases of treble, and finds tones that fill the bands of a mel filter easier
    to make than noise. With P_k the power of bin k of a long window, mean over the windows, and the means below over
    the bins of a band, the tonality of a band is

        log (mean P_k² / (mean P_k)²)

    0 where all bins are equally loud, log `band_bins` where one has all the power; of noise log (1 + 1 / n), n being
    the number of independent windows, about half of all as they overlap by three quarters. The loss is the mean of
    max(0, tonality(estimate) - tonality(reference)): a harmonic sound may be as harmonic as it was. Of two noises it is
    therefore not quite 0.

    Args:
        window_samples: Length of the Hann window, a multiple of four. Its main lobe, four bins, should be narrower than
            half the frame rate of the codec, the distance at which its tones lie.
        band_bins: Bins of a band, of which the window has a whole number.
        floor: Power that is added to each bin, so that what is far below it counts as even: that of white noise with
            this variance, so 1e-8 is -80 dBFS.

    Attributes:
        may_increase: True: the loss is near 0 until the decoder produces treble, so its rise is no divergence.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar; T at least `minimum_samples`.

    Raises:
        ValueError: A setting is out of range, or the signals are; the message says what was expected.
    """

    may_increase = True

    def __init__(self, window_samples: int = 4096, band_bins: int = 64, floor: float = 1e-8) -> None:
        super().__init__()
        if window_samples < 4 or window_samples % 4:
            raise ValueError(f"expected a window of a multiple of four samples, got {window_samples}")
        if band_bins < 2 or window_samples // 2 % band_bins:
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
        with torch.no_grad():
            usual = self._tonality(reference)
        return F.relu(self._tonality(estimate) - usual).mean()

    def _tonality(self, audio: Tensor) -> Tensor:
        """Shape: audio [B, C, T] -> [B, C, bands]."""
        power = self.stft(audio).unflatten(-1, (-1, 2)).square().sum(-1).mean(-2) + self.floor
        bands = power[..., :-1].unflatten(-1, (-1, self.band_bins))  # that of half the rate is in none
        return (bands / bands.mean(-1, keepdim=True)).square().mean(-1).log()
