"""What the codec is trained against. Everything takes (estimate, reference) and falls as the estimate gets better.

Shapes: audio [B, C, T] with B batch, C channels, T samples; F frames, K sub-discriminators.
"""

from .adversarial import AdversarialLoss, feature_matching_loss
from .combined import Combined
from .discriminators import DiscriminatorOutput, MultiScaleSTFT
from .prior import priors
from .spectral import MultiResolutionSTFT, MultiScaleMel, mel_distance
from .tonality import Tonality
from .waveform import L1, L2, SISDR, si_sdr
from .waveform_discriminators import MultiPeriod, MultiScale

__all__ = [
    "L1",
    "L2",
    "SISDR",
    "AdversarialLoss",
    "Combined",
    "DiscriminatorOutput",
    "MultiPeriod",
    "MultiResolutionSTFT",
    "MultiScale",
    "MultiScaleMel",
    "MultiScaleSTFT",
    "Tonality",
    "feature_matching_loss",
    "mel_distance",
    "priors",
    "si_sdr",
]
