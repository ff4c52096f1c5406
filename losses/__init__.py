"""What the codec is trained against. Everything takes (estimate, reference) and falls as the estimate gets better.

Shapes: audio [B, C, T] with B batch, C channels, T samples; F frames, K sub-discriminators.
"""

from .adversarial import AdversarialLoss, feature_matching_loss
from .combined import CombinedDiscriminator
from .constant_baseline import constant_baselines
from .discriminators import DiscriminatorOutput, MultiScaleSTFTDiscriminator
from .spectral import MultiResolutionSTFT, MultiScaleMel, mel_distance
from .tonality import Tonality
from .waveform import L1, L2, SISDR, si_sdr
from .waveform_discriminators import MultiPeriodDiscriminator, MultiScaleDiscriminator

__all__ = [
    "L1",
    "L2",
    "SISDR",
    "AdversarialLoss",
    "CombinedDiscriminator",
    "DiscriminatorOutput",
    "MultiPeriodDiscriminator",
    "MultiResolutionSTFT",
    "MultiScaleDiscriminator",
    "MultiScaleMel",
    "MultiScaleSTFTDiscriminator",
    "Tonality",
    "constant_baselines",
    "feature_matching_loss",
    "mel_distance",
    "si_sdr",
]
