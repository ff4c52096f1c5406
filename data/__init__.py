"""Files into training batches: corpora, manifests, segments, batches and held-out clips.

Legend: B batch, C channels, T samples. Audio is float32 in about [-1, 1].
"""

from data.audio import (
    AudioHeader,
    DataError,
    UnreadableAudio,
    convert_channels,
    level_dbfs,
    limit_peak,
    read_audio,
    read_header,
    read_resampled,
    resample,
    resampled_frames,
    write_wav,
)
from data.corpora import Corpus, clips, folder, large, manifests, starter
from data.held_out import HeldOutClip, held_out_clips
from data.manifest import Entry, Manifest, scan_folder
from data.sampler import Batch, training_batches
from data.segments import Segment, SegmentDataset

__all__ = [
    "AudioHeader",
    "Batch",
    "Corpus",
    "DataError",
    "Entry",
    "HeldOutClip",
    "Manifest",
    "Segment",
    "SegmentDataset",
    "UnreadableAudio",
    "clips",
    "convert_channels",
    "folder",
    "held_out_clips",
    "large",
    "level_dbfs",
    "limit_peak",
    "manifests",
    "read_audio",
    "read_header",
    "read_resampled",
    "resample",
    "resampled_frames",
    "scan_folder",
    "starter",
    "training_batches",
    "write_wav",
]
