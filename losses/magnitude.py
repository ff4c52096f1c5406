"""Distance of STFT magnitudes at several resolutions, with linear frequency."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.inputs import check_pair, without_autocast
from losses.ranges import NonNegativeFloat, PositiveFloat, Size
from losses.stft import STFT, centred_powers

__all__ = ["MultiScaleMagnitude"]

_POWER_FLOOR = 1e-7  # added to |X|^2 of the plain Hann window, so that the magnitude of silence has a gradient


class MultiScaleMagnitude(nn.Module):
    """L1 distance of STFT magnitudes plus L2 distance of their logarithms, mean over windows. This project's own loss.

    With M = |X| divided by the L2 norm of the window, a window has the distance

        linear_weight * mean |M_e - M_r| + mean over frames of rms over bins of (log(M_e + floor) - log(M_r + floor))

    The hop is a quarter of the window. Every bin counts, while a mel loss sums the treble in wide bands, where tones
    and noise look alike. The L2 distance is taken frame by frame, so its gradient does not vanish near the minimum: a
    frame that is nearly right still counts. Short windows fix the envelope in time, long windows the harmonics.

    Args:
        windows: Lengths of the Hann windows in samples, multiples of 4.
        linear_weight: Weight of the L1 distance.
        floor: Added to magnitudes before the logarithm. Differences far below it count little; 1e-3 is -60 dBFS of
            white noise.

    Attributes:
        minimum_samples: Reflection padding needs one sample more than it reflects.
        window_samples: The longest window.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar; T is at least `minimum_samples`.

    Raises:
        ValueError: A setting is out of range, or the signals have the wrong shape.
    """

    def __init__(
        self,
        windows: Sequence[Size] = (2048, 1024, 512, 256, 128),
        linear_weight: NonNegativeFloat = 10.0,
        floor: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__()
        if not windows or any(window < 4 or window % 4 for window in windows):
            raise ValueError(f"expected one or more windows that are multiples of 4, got {list(windows)}")
        if linear_weight < 0:
            raise ValueError(f"expected linear_weight >= 0, got {linear_weight}")
        if floor <= 0:
            raise ValueError(f"expected floor > 0, got {floor}")
        self.windows, self.linear_weight, self.floor = list(windows), linear_weight, floor
        self.minimum_samples = max(windows) // 2 + 1
        self.window_samples = max(windows)
        self.resolutions = nn.ModuleList(STFT(window, window // 4, normalized=True) for window in windows)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        with without_autocast(estimate):
            distances = []
            spectra = zip(*centred_powers(self.resolutions, estimate, reference), strict=True)
            for window, powers in zip(self.windows, spectra, strict=True):
                # The squares of a Hann window add up to 3/8 of its length.
                magnitude, target = ((power + _POWER_FLOOR / (0.375 * window)).sqrt() for power in powers)
                logarithmic = (magnitude + self.floor).log() - (target + self.floor).log()
                per_frame = torch.linalg.vector_norm(logarithmic, dim=-1) / math.sqrt(logarithmic.shape[-1])
                distances.append(self.linear_weight * F.l1_loss(magnitude, target) + per_frame.mean())
            return torch.stack(distances).mean()
