"""Losses and discriminators that a codec is trained with.

Every loss takes (estimate, reference) and falls as the estimate gets closer to the reference.
Shapes: audio [B, C, T] with B batch, C channels, T samples; F frames; K sub-discriminators.
"""

from losses.adversarial import AdversarialLoss, discriminator_loss, feature_matching_loss, generator_loss, mean_logits
from losses.constant_baseline import constant_baselines
from losses.discriminators import (
    CombinedDiscriminator,
    DiscriminatorPerBandwidth,
    MultiBandSTFTDiscriminator,
    MultiFilterBankDiscriminator,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from losses.energy_distance import EnergyDistance
from losses.log_mel import LogMel
from losses.magnitude import MultiScaleMagnitude
from losses.protocols import (
    Discriminator,
    DiscriminatorOutput,
    GANLoss,
    Loss,
    discriminator_for,
    minimum_samples,
    segment_samples,
)
from losses.spectral import MultiResolutionSTFT, MultiScaleMel, mel_distance
from losses.tonality import Tonality
from losses.waveform import L1, L2, SISDR, si_sdr

__all__ = [
    "L1",
    "L2",
    "SISDR",
    "AdversarialLoss",
    "CombinedDiscriminator",
    "Discriminator",
    "DiscriminatorOutput",
    "DiscriminatorPerBandwidth",
    "EnergyDistance",
    "GANLoss",
    "LogMel",
    "Loss",
    "MultiBandSTFTDiscriminator",
    "MultiFilterBankDiscriminator",
    "MultiPeriodDiscriminator",
    "MultiResolutionSTFT",
    "MultiScaleDiscriminator",
    "MultiScaleMagnitude",
    "MultiScaleMel",
    "MultiScaleSTFTDiscriminator",
    "Tonality",
    "constant_baselines",
    "discriminator_for",
    "discriminator_loss",
    "feature_matching_loss",
    "generator_loss",
    "mean_logits",
    "mel_distance",
    "minimum_samples",
    "segment_samples",
    "si_sdr",
]
