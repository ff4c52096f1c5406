"""The mel loss of DAC (Kumar et al. 2023, section 3.5): short windows too, each with its own number of filters."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.inputs import check_pair, without_autocast
from losses.mel_filters import mel_filters
from losses.ranges import NonNegativeFloat, PositiveFloat, SampleRate, Size
from losses.stft import STFT, centred_powers

__all__ = ["LogMel"]

_LEAST_POWER = 1e-14  # of a bin; below it the magnitude has no gradient


class LogMel(nn.Module):
    """Sum over windows of the L1 distance between logarithms (base 10) of mel magnitudes, and of their mean square.

    Args:
        sample_rate: In Hz.
        windows: Hann windows in samples, multiples of 4; the hop is a quarter.
        mels: Number of Slaney mel filters for each window. Filters without a bin count as equal.
        floor: Smallest mel magnitude; what is below counts as equal.
        square_weight: Of the mean squared difference, relative to the L1 distance. 0 in DAC. NeMo adds both with the
            weight 1 for natural logarithms, which is ln 10 here; HILCodec does so for powers, which is 2 ln 10.

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
        windows: Sequence[Size] = (32, 64, 128, 256, 512, 1024, 2048),
        mels: Sequence[Size] = (5, 10, 20, 40, 80, 160, 320),
        floor: PositiveFloat = 1e-5,
        square_weight: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        if not windows or len(windows) != len(mels) or min(windows) < 4 or any(window % 4 for window in windows):
            raise ValueError(
                f"expected windows that are multiples of 4 samples and a number of mels for each, got {list(windows)} "
                f"and {list(mels)}"
            )
        if square_weight < 0:
            raise ValueError(f"expected square_weight >= 0, got {square_weight}")
        self.floor, self.square_weight = floor, square_weight
        self.resolutions = nn.ModuleList(
            _MelMagnitude(sample_rate, window, count) for window, count in zip(windows, mels, strict=True)
        )
        self.window_samples = max(windows)
        self.minimum_samples = max(windows) // 2 + 1

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        with without_autocast(estimate):
            resolutions = [cast(_MelMagnitude, each) for each in self.resolutions]
            powers = centred_powers([each.stft for each in resolutions], estimate, reference)
            logarithms = [
                [self._logarithm(mel(power)) for mel, power in zip(resolutions, each, strict=True)] for each in powers
            ]
            terms = [F.l1_loss(found, target) for found, target in zip(*logarithms, strict=True)]
            if self.square_weight:
                terms += [self.square_weight * F.mse_loss(*pair) for pair in zip(*logarithms, strict=True)]
            return torch.stack(terms).sum()

    def _logarithm(self, mel: Tensor) -> Tensor:
        return mel.clamp_min(self.floor).log10()


class _MelMagnitude(nn.Module):
    """Mel filters of the magnitudes of frames. Shape: power [B C, F, bins] -> [B C, F, mels]."""

    filters: Tensor

    def __init__(self, sample_rate: int, window: int, mels: int) -> None:
        super().__init__()
        self.stft = STFT(window, window // 4)
        filters = mel_filters(sample_rate, window, mels, 0.0, sample_rate / 2, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, power: Tensor) -> Tensor:
        return power.clamp_min(_LEAST_POWER).sqrt() @ self.filters
