"""Discriminators: networks that tell real audio from coded audio. They are used in training only.

Each takes audio [B, C, T], scores its channels separately and returns a `DiscriminatorOutput`.
"""

from losses.discriminators.combined import CombinedDiscriminator
from losses.discriminators.multi_band_stft import MultiBandSTFTDiscriminator
from losses.discriminators.multi_filter_bank import MultiFilterBankDiscriminator
from losses.discriminators.multi_period import MultiPeriodDiscriminator
from losses.discriminators.multi_scale import MultiScaleDiscriminator
from losses.discriminators.multi_scale_stft import MultiScaleSTFTDiscriminator
from losses.discriminators.per_bandwidth import DiscriminatorPerBandwidth

__all__ = [
    "CombinedDiscriminator",
    "DiscriminatorPerBandwidth",
    "MultiBandSTFTDiscriminator",
    "MultiFilterBankDiscriminator",
    "MultiPeriodDiscriminator",
    "MultiScaleDiscriminator",
    "MultiScaleSTFTDiscriminator",
]
