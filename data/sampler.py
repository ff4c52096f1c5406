"""Batches in a fixed order, from worker processes, starting at any step."""

import itertools
import signal
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.audio import DataError
from data.segments import SegmentDataset

__all__ = ["Batch", "training_batches"]


class Batch(NamedTuple):
    """What one training step sees."""

    audio: Tensor  # [B, C, T] float32
    skipped_files: tuple[str, ...]  # files that did not decode


class _Batches(Dataset[Batch | str]):
    """Batch number -> Batch; a DataError travels as its sentence, since torch would bury it in a worker's traceback."""

    def __init__(self, dataset: SegmentDataset, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __getitem__(self, number: int) -> Batch | str:
        first = number * self.batch_size
        try:
            segments = [self.dataset[index] for index in range(first, first + self.batch_size)]
        except DataError as error:
            return str(error)
        skipped_files = dict.fromkeys(path for segment in segments for path in segment.skipped_files)
        return Batch(torch.stack([segment.audio for segment in segments]), tuple(skipped_files))


class _Numbers:
    """first, first + stride, first + 2 * stride ..."""

    def __init__(self, first: int, stride: int) -> None:
        self.first = first
        self.stride = stride

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, self.stride)


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C goes to the whole process group: the main process decides, and its workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_batches(
    dataset: SegmentDataset,
    batch_size: int,
    num_workers: int,
    start_step: int,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[Batch, None, None]:
    """Endless batches: the one of step i holds segments i * B to (i + 1) * B - 1, for any number of workers.

    A run that starts at step n sees what an uninterrupted one sees from there. The global random generators are neither
    read nor moved. Workers compute on one thread each and end with the iterator, or when this process dies.

    Args:
        dataset: where segments come from.
        batch_size: B, segments per step and process.
        num_workers: processes that read ahead; 0 reads in this one.
        start_step: step of the first batch.
        rank: of this process among `world_size`; rank r of W takes batch i * W + r.
        world_size: processes that train together.

    Shape: audio [B, C, T]

    Raises:
        DataError: while iterating, if the corpus cannot be read; at once, if a number makes no sense.
    """
    if batch_size < 1 or num_workers < 0 or start_step < 0 or not 0 <= rank < world_size:
        raise DataError(
            "wanted batch_size >= 1, num_workers >= 0, start_step >= 0 and 0 <= rank < world_size, "
            f"got {batch_size}, {num_workers}, {start_step}, {rank}, {world_size}"
        )
    loader = DataLoader(
        _Batches(dataset, batch_size),
        batch_size=None,
        sampler=_Numbers(start_step * world_size + rank, world_size),
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_ignore_interrupts if num_workers else None,
        generator=torch.Generator(),  # else torch draws the workers' seeds from the global generator
    )
    return _checked(loader)


def _checked(loader: DataLoader[Batch | str]) -> Generator[Batch, None, None]:
    for batch in loader:
        if isinstance(batch, str):
            raise DataError(batch)
        yield batch
