"""Applies transforms to the segments of a dataset."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from data.entries import DataError
from data.segments import Segment, TrainingDataset, torch_generator
from data.stream import IterableTrainingDataset, is_iterable

__all__ = [
    "NeedsMoreSamples",
    "Transform",
    "TransformedDataset",
    "TransformedStream",
    "input_samples",
    "transformed",
]

Transform = Callable[[Tensor, torch.Generator], Tensor]

_STREAM = 1  # random numbers other than those that draw the segments


@runtime_checkable
class NeedsMoreSamples(Protocol):
    """A transform that needs more samples than it returns, such as one that plays faster."""

    def input_samples(self, samples: int) -> int:
        """Samples that it must be given so that it returns `samples` or more; those beyond are cut off."""

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, input_samples(T)] -> [C, T or more]."""


def input_samples(transforms: Sequence[Transform], samples: int) -> int:
    """Length of the segments that transforms need so that `samples` are left in the end."""
    return _lengths(transforms, samples)[0]


def transformed(
    dataset: TrainingDataset | IterableTrainingDataset,
    transforms: Sequence[Transform],
    seed: int = 0,
    segment_samples: int | None = None,
) -> "TransformedDataset | TransformedStream":
    """Applies transforms to the segments of a dataset of either kind, in order.

    Args:
        dataset: Source of the segments, of length `input_samples(transforms, segment_samples)`.
        transforms: As described in `data.transforms`.
        seed: With the index of a segment, it determines the random numbers.
        segment_samples: T, length of the segments after the transforms; None is that before.

    Raises:
        DataError: The segments of the dataset have another length.
    """
    if is_iterable(dataset):
        return TransformedStream(dataset, transforms, seed, segment_samples)
    return TransformedDataset(cast(TrainingDataset, dataset), transforms, seed, segment_samples)


class TransformedDataset:
    """A `TrainingDataset` with transforms; see `transformed`."""

    def __init__(
        self,
        dataset: TrainingDataset,
        transforms: Sequence[Transform],
        seed: int = 0,
        segment_samples: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.transforms = list(transforms)
        self.seed = seed
        self.sample_rate = dataset.sample_rate
        self.segment_samples = segment_samples or dataset.segment_samples
        self._lengths = _checked_lengths(self.transforms, self.segment_samples, dataset.segment_samples)

    def __len__(self) -> int:
        """As in the dataset."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Segment:
        """Shape: audio [C, T].

        Raises:
            DataError: A transform returned audio of another shape than it should.
        """
        return _apply(self.transforms, self._lengths, self.dataset[index], torch_generator(self.seed, index, _STREAM))


class TransformedStream:
    """An `IterableTrainingDataset` with transforms; see `transformed`. The index is that of the segment in its shard.

    Args:
        index: Number of the shard.
    """

    def __init__(
        self,
        dataset: IterableTrainingDataset,
        transforms: Sequence[Transform],
        seed: int = 0,
        segment_samples: int | None = None,
        index: int = 0,
    ) -> None:
        self.dataset = dataset
        self.transforms = list(transforms)
        self.seed = seed
        self.index = index
        self.count = 0
        self.sample_rate = dataset.sample_rate
        self.segment_samples = segment_samples or dataset.segment_samples
        self._lengths = _checked_lengths(self.transforms, self.segment_samples, dataset.segment_samples)

    def shard(self, num_shards: int, index: int) -> "TransformedStream":
        """As in `IterableTrainingDataset`."""
        dataset = self.dataset.shard(num_shards, index)
        return TransformedStream(dataset, self.transforms, self.seed, self.segment_samples, index)

    def __iter__(self) -> Iterator[Segment]:
        """Shape: audio [C, T] each.

        Raises:
            DataError: A transform returned audio of another shape than it should.
        """
        for segment in self.dataset:
            self.count += 1
            generator = torch_generator(self.seed, self.count, _STREAM + self.index)
            yield _apply(self.transforms, self._lengths, segment, generator)

    def state_dict(self) -> dict[str, Any]:
        """As in `IterableTrainingDataset`."""
        return {"count": self.count, "dataset": self.dataset.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.count = state["count"]
        self.dataset.load_state_dict(state["dataset"])


def _lengths(transforms: Sequence[Transform], samples: int) -> list[int]:
    """Number of samples before each transform, and after the last."""
    lengths = [samples]
    for transform in reversed(transforms):
        lengths.append(transform.input_samples(lengths[-1]) if isinstance(transform, NeedsMoreSamples) else lengths[-1])
    return lengths[::-1]


def _checked_lengths(transforms: Sequence[Transform], samples: int, given: int) -> list[int]:
    lengths = _lengths(transforms, samples)
    if lengths[0] != given:
        raise DataError(
            f"data.transforms need segments of {lengths[0]} samples to return {samples}, the dataset gives {given}: "
            "use a data.dataset that follows segment_seconds"
        )
    return lengths


def _apply(
    transforms: Sequence[Transform], lengths: Sequence[int], segment: Segment, generator: torch.Generator
) -> Segment:
    audio = segment.audio
    for transform, length in zip(transforms, lengths[1:], strict=True):
        expected = [audio.shape[0], length]
        audio = transform(audio, generator)
        if isinstance(transform, NeedsMoreSamples):
            audio = audio[:, :length]
        if list(audio.shape) != expected:
            name = getattr(transform, "__name__", type(transform).__name__)
            raise DataError(f"expected audio of shape {expected} from the transform {name}, got {list(audio.shape)}")
    return segment._replace(audio=audio)
