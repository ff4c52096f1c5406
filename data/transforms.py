"""Augmentation: a list of functions (audio, generator) -> audio, applied to each training segment.

Each is given [C, T] audio and a `torch.Generator`, and returns audio of the same shape. A function that draws from that
generator alone gives the same result for the same seed and segment, in any worker and after any resume.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from data.entries import DataError
from data.segments import Segment, TrainingDataset, torch_generator

__all__ = ["RandomGain", "Transform", "TransformedDataset"]

Transform = Callable[[Tensor, torch.Generator], Tensor]

_STREAM = 1  # random numbers other than those that draw the segments


class TransformedDataset:
    """Applies transforms to the segments of a dataset, in order.

    Args:
        dataset: Source of the segments.
        transforms: As described above.
        seed: With the index of a segment, it determines the random numbers.
    """

    def __init__(self, dataset: TrainingDataset, transforms: Sequence[Transform], seed: int = 0) -> None:
        self.dataset = dataset
        self.transforms = list(transforms)
        self.seed = seed
        self.sample_rate = dataset.sample_rate
        self.segment_samples = dataset.segment_samples

    def __len__(self) -> int:
        """As in the dataset."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Segment:
        """Shape: audio [C, T].

        Raises:
            DataError: A transform changed the shape of the audio.
        """
        segment = self.dataset[index]
        audio, generator = segment.audio, torch_generator(self.seed, index, _STREAM)
        for transform in self.transforms:
            audio = transform(audio, generator)
        if audio.shape != segment.audio.shape:
            raise DataError(
                f"expected transforms to keep the shape {list(segment.audio.shape)}, got {list(audio.shape)}"
            )
        return segment._replace(audio=audio)


class RandomGain:
    """Changes the level by a random gain, uniform in dB, but not beyond a peak of 1.

    Args:
        minimum_db, maximum_db: Range of the gain.

    Raises:
        DataError: The range is empty.
    """

    def __init__(self, minimum_db: float = -12.0, maximum_db: float = 6.0) -> None:
        if not minimum_db <= maximum_db:
            raise DataError(f"expected minimum_db <= maximum_db, got {minimum_db:g} and {maximum_db:g}")
        self.minimum_db = minimum_db
        self.maximum_db = maximum_db

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        drawn = float(torch.rand((), generator=generator))
        gain = 10 ** ((self.minimum_db + drawn * (self.maximum_db - self.minimum_db)) / 20)
        peak = float(audio.abs().max()) if audio.numel() else 0.0
        return audio * (gain if peak * gain <= 1 else 1 / peak)
