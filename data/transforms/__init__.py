"""Augmentation: a list of functions (audio, generator) -> audio, applied to each training segment; one file each.

Each is given [C, T] audio and a `torch.Generator`, and returns audio of the same shape. A function that draws from that
generator alone gives the same result for the same seed and segment, in any worker and after any resume. A function that
needs more samples than it returns has a method `input_samples`, see `NeedsMoreSamples`.
"""

from data.transforms.band_limit import RandomBandLimit
from data.transforms.equalizer import RandomEqualizer
from data.transforms.gain import RandomGain
from data.transforms.lossy import RandomLossyCoding
from data.transforms.loudness import NormalizeLoudness
from data.transforms.noise import RandomNoise, mix_at_snr, noise_at_snr
from data.transforms.phase import RandomPhase
from data.transforms.polarity import RandomPolarity
from data.transforms.reverb import RandomReverb
from data.transforms.speed import RandomSpeed
from data.transforms.transformed import (
    NeedsMoreSamples,
    Transform,
    TransformedDataset,
    TransformedStream,
    input_samples,
    transformed,
)

__all__ = [
    "NeedsMoreSamples",
    "NormalizeLoudness",
    "RandomBandLimit",
    "RandomEqualizer",
    "RandomGain",
    "RandomLossyCoding",
    "RandomNoise",
    "RandomPhase",
    "RandomPolarity",
    "RandomReverb",
    "RandomSpeed",
    "Transform",
    "TransformedDataset",
    "TransformedStream",
    "input_samples",
    "mix_at_snr",
    "noise_at_snr",
    "transformed",
]
