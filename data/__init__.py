"""Files to training batches: corpora, manifests, segments, augmentation, batches and held-out clips.

Legend: B batch, C channels, T samples. Audio is float32 in about [-1, 1]. Files are read by `codec.audio`.
"""

from data.bandwidth import bandwidth_hz, measure_bandwidths
from data.corpora import Corpus, clips, folder, large, manifests, starter, voices
from data.entries import DataError, Entry
from data.held_out import HeldOutClip, held_out_clips
from data.hugging_face import HuggingFaceDataset
from data.loudness import loudness_lufs
from data.manifest import Manifest
from data.mixtures import Mixture, MixtureDataset, is_clipped
from data.sampler import Batch, training_batches
from data.scan import scan_folder
from data.segments import Segment, SegmentDataset, TrainingDataset
from data.sources import SourceReader, level_dbfs, limit_peak
from data.stream import IterableTrainingDataset, is_iterable, stream_batches
from data.tar import TarDataset
from data.transforms import (
    NeedsMoreSamples,
    NormalizeLoudness,
    RandomBandLimit,
    RandomEqualizer,
    RandomGain,
    RandomLossyCoding,
    RandomNoise,
    RandomPhase,
    RandomPolarity,
    RandomReverb,
    RandomSpeed,
    Transform,
    TransformedDataset,
    input_samples,
    mix_at_snr,
    transformed,
)

__all__ = [
    "Batch",
    "Corpus",
    "DataError",
    "Entry",
    "HeldOutClip",
    "HuggingFaceDataset",
    "IterableTrainingDataset",
    "Manifest",
    "Mixture",
    "MixtureDataset",
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
    "Segment",
    "SegmentDataset",
    "SourceReader",
    "TarDataset",
    "TrainingDataset",
    "Transform",
    "TransformedDataset",
    "bandwidth_hz",
    "clips",
    "folder",
    "held_out_clips",
    "input_samples",
    "is_clipped",
    "is_iterable",
    "large",
    "level_dbfs",
    "limit_peak",
    "loudness_lufs",
    "manifests",
    "measure_bandwidths",
    "mix_at_snr",
    "scan_folder",
    "starter",
    "stream_batches",
    "training_batches",
    "transformed",
    "voices",
]
