"""Augmentation: a list of functions (audio, generator) -> audio, applied to each training segment.

Each is given [C, T] audio and a `torch.Generator`, and returns audio of the same shape. A function that draws from that
generator alone gives the same result for the same seed and segment, in any worker and after any resume.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from data.entries import DataError
from data.segments import Segment, TrainingDataset, torch_generator
from data.stream import IterableTrainingDataset, is_iterable

__all__ = ["RandomGain", "Transform", "TransformedDataset", "TransformedStream", "transformed"]

Transform = Callable[[Tensor, torch.Generator], Tensor]

_STREAM = 1  # random numbers other than those that draw the segments


def transformed(
    dataset: TrainingDataset | IterableTrainingDataset, transforms: Sequence[Transform], seed: int = 0
) -> "TransformedDataset | TransformedStream":
    """Applies transforms to the segments of a dataset of either kind, in order.

    Args:
        dataset: Source of the segments.
        transforms: As described above.
        seed: With the index of a segment, it determines the random numbers.
    """
    if is_iterable(dataset):
        return TransformedStream(dataset, transforms, seed)
    return TransformedDataset(cast(TrainingDataset, dataset), transforms, seed)


class TransformedDataset:
    """A `TrainingDataset` with transforms; see `transformed`."""

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
        return _apply(self.transforms, self.dataset[index], torch_generator(self.seed, index, _STREAM))


class TransformedStream:
    """An `IterableTrainingDataset` with transforms; see `transformed`. The index is that of the segment in its shard.

    Args:
        index: Number of the shard.
    """

    def __init__(
        self, dataset: IterableTrainingDataset, transforms: Sequence[Transform], seed: int = 0, index: int = 0
    ) -> None:
        self.dataset = dataset
        self.transforms = list(transforms)
        self.seed = seed
        self.index = index
        self.count = 0
        self.sample_rate = dataset.sample_rate
        self.segment_samples = dataset.segment_samples

    def shard(self, num_shards: int, index: int) -> "TransformedStream":
        """As in `IterableTrainingDataset`."""
        return TransformedStream(self.dataset.shard(num_shards, index), self.transforms, self.seed, index)

    def __iter__(self) -> Iterator[Segment]:
        """Shape: audio [C, T] each.

        Raises:
            DataError: A transform changed the shape of the audio.
        """
        for segment in self.dataset:
            self.count += 1
            yield _apply(self.transforms, segment, torch_generator(self.seed, self.count, _STREAM + self.index))

    def state_dict(self) -> dict[str, Any]:
        """As in `IterableTrainingDataset`."""
        return {"count": self.count, "dataset": self.dataset.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.count = state["count"]
        self.dataset.load_state_dict(state["dataset"])


def _apply(transforms: Sequence[Transform], segment: Segment, generator: torch.Generator) -> Segment:
    audio = segment.audio
    for transform in transforms:
        audio = transform(audio, generator)
    if audio.shape != segment.audio.shape:
        raise DataError(f"expected transforms to keep the shape {list(segment.audio.shape)}, got {list(audio.shape)}")
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
