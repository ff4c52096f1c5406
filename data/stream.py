"""Batches from an iterable dataset, which has a state in place of an index; resumed exactly from that state."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeGuard

from torch.utils.data import IterableDataset, get_worker_info

from codec.audio import AudioFileError
from data.entries import DataError
from data.sampler import Batch, as_batch, load_batches
from data.segments import Segment, TrainingDataset

__all__ = ["IterableTrainingDataset", "is_iterable", "stream_batches"]


class IterableTrainingDataset(Protocol):
    """What a run trains on if segments cannot be had by index: shards of an archive, a stream.

    Every loader worker of every process reads a shard of its own. A resumed run loads the state of each shard, so it
    sees the sequence that an uninterrupted run sees. It needs the same number of workers and processes.

    Attributes:
        sample_rate: In Hz.
        segment_samples: T, length of every segment.
    """

    sample_rate: int
    segment_samples: int

    def shard(self, num_shards: int, index: int) -> "IterableTrainingDataset":
        """A dataset of this kind with one of `num_shards` disjoint parts, in its initial state."""

    def __iter__(self) -> Iterator[Segment]:
        """The segments from the current state to the end of a pass; the next call begins the next pass.

        Shape: audio [C, T] each.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state after the last segment that was given; tensors and primitives only."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""


def is_iterable(dataset: TrainingDataset | IterableTrainingDataset) -> TypeGuard[IterableTrainingDataset]:
    """Which protocol a dataset follows: `IterableTrainingDataset` or `TrainingDataset`.

    Raises:
        DataError: Neither.
    """
    if all(hasattr(dataset, name) for name in ("__iter__", "shard", "state_dict", "load_state_dict")):
        return True
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return False
    raise DataError(
        f"data.dataset: expected a class with __getitem__ and __len__ (data.TrainingDataset), or with __iter__, shard, "
        f"state_dict and load_state_dict (data.IterableTrainingDataset), got {type(dataset).__name__}"
    )


def stream_batches(
    dataset: IterableTrainingDataset,
    batch_size: int,
    num_workers: int,
    states: Sequence[Any],
    first: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Endless batches, from the shards of this process in turn. Each has the state of its shard after it.

    Args:
        batch_size: B, segments per batch.
        num_workers: Processes that read ahead, as many as there are shards; 0 reads all shards in this process.
        states: State of each shard of this process; None is the initial one.
        first: Number of the shard that gives the first batch.
        rank, world_size: Shard s of S in process r of W is shard r * S + s of W * S.
        pin_memory: See `load_batches`.

    Shape: audio [B, C, T].

    Raises:
        DataError: While iterating: the dataset cannot be read, or a shard has no segments.
    """
    shards = _Shards(dataset, batch_size, list(states), first, rank, world_size)
    return load_batches(shards, None, num_workers, pin_memory)


class _Shards(IterableDataset[Batch | str]):
    """Batches or an error message, see `stream_batches`. In a loader worker, those of its shard."""

    def __init__(
        self,
        dataset: IterableTrainingDataset,
        batch_size: int,
        states: list[Any],
        first: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.dataset, self.batch_size, self.states = dataset, batch_size, states
        self.first, self.rank, self.world_size = first, rank, world_size

    def __iter__(self) -> Iterator[Batch | str]:
        worker, count = get_worker_info(), len(self.states)
        # The loader asks its workers in turn, and worker 0 first.
        numbers = range(count) if worker is None else [worker.id]
        shards = [self._batches((self.first + number) % count) for number in numbers]
        try:
            while True:
                for shard in shards:
                    yield next(shard)
        except (DataError, AudioFileError) as error:
            yield str(error)

    def _batches(self, number: int) -> Iterator[Batch]:
        count = len(self.states)
        shard = self.dataset.shard(self.world_size * count, self.rank * count + number)
        if self.states[number] is not None:
            shard.load_state_dict(self.states[number])
        segments: list[Segment] = []
        for segment in _repeated(shard):
            segments.append(segment)
            if len(segments) == self.batch_size:
                # A copy: the dataset changes its state while the batch waits to be sent.
                yield as_batch(segments, shard.segment_samples)._replace(state=copy.deepcopy(shard.state_dict()))
                segments = []


def _repeated(shard: IterableTrainingDataset) -> Iterator[Segment]:
    """Pass after pass."""
    empty = 0
    while empty < 2:  # a state may be that of the end of a pass
        empty += 1
        for segment in shard:
            empty = 0
            yield segment
    raise DataError("a shard of data.dataset has no segments: lower data.num_workers or the number of processes")
