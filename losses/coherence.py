"""A loss for what spectral losses do not hear: a waveform that repeats in every frame of the codec."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import check_pair
from .stft import STFT, wide, without_autocast

__all__ = ["FrameCoherence"]


class FrameCoherence(nn.Module):
    """How much more of the estimate than of the reference keeps its phase from frame to frame, mean over frequencies.

    A decoder is given energies rather than phases of treble, and repeats one waveform in every frame: noise comes out
    as tones at multiples of the frame rate. Mel bands hold several of them each, so every loss of bands takes them for
    noise. With X_f the spectrum of the window that starts at frame f, the coherence of a frequency is

        γ² = |Σ_f X_f|² / (F Σ_f |X_f|²)

    the magnitude-squared coherence of the signal with a pulse train at the frame rate: 1 for what repeats, and for
    noise about 1 / F. The loss is the mean over frequencies of max(0, γ²(estimate) - γ²(reference)).

    Args:
        strides: The codec's; their product is the length of its frames in samples.
        frames: Length of the Hann window in frames. Default: 2.
        floor: Power that is added to that of a frequency and frame, so that what nobody hears does not count.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar; T at least `minimum_samples`.
    """

    def __init__(self, strides: Sequence[int], frames: int = 2, floor: float = 1e-6) -> None:
        super().__init__()
        hop_samples = math.prod(strides)
        if hop_samples < 1 or frames < 1 or hop_samples * frames % 2:
            raise ValueError(f"expected an even window of one frame or more, got {frames} of {hop_samples} samples")
        if floor <= 0:
            raise ValueError(f"expected floor > 0, got {floor}")
        self.stft = STFT(frames * hop_samples, hop_samples, normalized=True)
        self.floor = floor
        self.minimum_samples = (frames + 1) * hop_samples  # of a single window everything would keep its phase

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        with without_autocast(estimate):
            with torch.no_grad():
                usual = self._coherence(reference)
            return F.relu(self._coherence(estimate) - usual).mean()

    def _coherence(self, audio: Tensor) -> Tensor:
        """Shape: audio [B, C, T] -> [B, C, bins]."""
        spectrum = self.stft(wide(audio)).unflatten(-1, (-1, 2))
        total = spectrum.square().sum((-3, -1)) + self.floor * spectrum.shape[-3]
        return spectrum.sum(-3).square().sum(-1) / (spectrum.shape[-3] * total)
