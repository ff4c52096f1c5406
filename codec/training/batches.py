"""Training batches by step."""

import math
import os
from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from typing import Any, cast

from torch import Tensor

from codec.ranges import BatchSize, NumWorkers, check_ranges
from codec.training.startup.cpu import cpu_quota
from data import (
    Batch,
    DataError,
    IterableTrainingDataset,
    TrainingDataset,
    is_iterable,
    stream_batches,
    training_batches,
)

__all__ = ["TrainingData", "default_num_workers"]

_MAX_DEFAULT_WORKERS = 8  # one reads 180 s of audio a second or more (docs/performance.md)


def default_num_workers() -> int:
    """Half of the CPU cores that this process may use, shared with the other processes of the run on this machine.

    The quota of a container counts as its cores. At least 1 and at most 8.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return min(max(int(min(cores, cpu_quota()) / (2 * processes)), 1), _MAX_DEFAULT_WORKERS)


class TrainingData:
    """Batches by step.

    With a `TrainingDataset`, the batch of a step does not depend on earlier steps. An `IterableTrainingDataset` has a
    state, which `advance` moves on by a batch. Batches are then read from that state.

    Args:
        dataset: Segments by index, or a stream of them.
        batch_size: Segments per batch, over all processes of the run.
        num_workers: Processes that read ahead; 0 reads in the training process, None is `default_num_workers`.
        rank: Number of this process.
        world_size: Number of processes; each gets an equal part of every batch.

    Attributes:
        pin_memory: Whether batches are in page-locked memory, for training on a GPU.

    Raises:
        ValueError: A value is out of range, the processes cannot have equal parts of a batch, or an iterable dataset
            has no number of workers.
    """

    def __init__(
        self,
        dataset: TrainingDataset | IterableTrainingDataset,
        batch_size: BatchSize,
        num_workers: NumWorkers | None = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_ranges(TrainingData.__init__, locals(), "data.")
        if batch_size % world_size:
            raise ValueError(
                f"data.batch_size must be a multiple of the number of processes, {world_size}, got {batch_size}"
            )
        self.dataset, self.batch_size = dataset, batch_size
        self.rank, self.world_size = rank, world_size
        self.has_state = is_iterable(dataset)
        if num_workers is None and self.has_state:
            raise ValueError(
                "data.num_workers must be a number with an iterable data.dataset, because a resumed run needs the same "
                "one: set data.num_workers=2"
            )
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.pin_memory = False
        self._step = 0  # of the state
        self._states: list[Any] = [None] * max(1, self.num_workers)  # of each shard of this process

    def batches(self, start_step: int) -> Iterator[Batch]:
        """This process's parts of all batches from `start_step` on, without an end.

        Raises:
            DataError: The dataset has a state, and it is that of a later step.
        """
        return self._read(self.num_workers, start_step)

    def batch(self, step: int) -> Tensor:
        """This process's part of one batch, read in this process.

        Shape: -> audio [B, C, T].
        """
        return next(self._read(0, step)).audio

    def advance(self, batch: Batch) -> None:
        """Moves the state past `batch`, the next one of `batches`, after it was trained on."""
        self._states[self._step % len(self._states)] = batch.state
        self._step += 1

    def _read(self, num_workers: int, start_step: int) -> Iterator[Batch]:
        part_size = self.batch_size // self.world_size
        process: dict[str, Any] = {"rank": self.rank, "world_size": self.world_size, "pin_memory": self.pin_memory}
        if not is_iterable(self.dataset):
            by_index = cast(TrainingDataset, self.dataset)
            return training_batches(by_index, part_size, num_workers, start_step, **process)
        if start_step < self._step:
            raise DataError(f"data.dataset has the state of step {self._step} and cannot go back to step {start_step}")
        first = self._step % len(self._states)
        batches = stream_batches(self.dataset, part_size, num_workers, self._states, first, **process)
        return islice(batches, start_step - self._step, None)

    @property
    def steps_per_epoch(self) -> float:
        """Infinite if the dataset has no length."""
        return len(self.dataset) / self.batch_size if isinstance(self.dataset, Sized) else math.inf

    @property
    def seconds_per_step(self) -> float:
        """Seconds of audio in a batch."""
        return self.batch_size * self.dataset.segment_samples / self.dataset.sample_rate

    def state_dict(self) -> dict[str, Any]:
        """The state of this process; the checkpoint of a run needs those of all."""
        return {"step": self._step, "shards": list(self._states)}

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """Inverse of `state_dict`.

        Args:
            states: Of all processes.

        Raises:
            DataError: They are those of another number of processes or workers.
        """
        saved = len(states), len(states[0]["shards"])
        if saved != (self.world_size, len(self._states)):
            raise DataError(
                "an iterable dataset resumes with the same numbers of processes and data.num_workers: the checkpoint "
                f"has {saved[0]} and {saved[1]}, got {self.world_size} and {self.num_workers}"
            )
        self._step, self._states = states[self.rank]["step"], list(states[self.rank]["shards"])
