"""Batches in a fixed order, read ahead by worker processes, from any step on."""

import itertools
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codec.audio import AudioFileError
from data.entries import DataError
from data.segments import Segment, TrainingDataset

__all__ = ["Batch", "as_batch", "load_batches", "training_batches"]


class Batch(NamedTuple):
    """The data of one training step."""

    audio: Tensor  # [B, C, T] float32
    skipped_files: tuple[str, ...]  # files that did not decode
    state: Any = None  # of the shard it came from, after it; only for an iterable dataset


def training_batches(
    dataset: TrainingDataset,
    batch_size: int,
    num_workers: int,
    start_step: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """Endless batches: that of step i holds the segments i * B to (i + 1) * B - 1, for any number of workers.

    A run that is resumed at step n gets the batches that an uninterrupted run gets from there. The global random
    generators are not used. Workers compute on one thread each. They end with the iterator, or when this process dies.

    Args:
        dataset: Source of the segments.
        batch_size: B, segments per step and process.
        num_workers: Processes that read ahead; 0 reads in this process.
        start_step: Step of the first batch.
        rank, world_size: Rank r of W processes that train together takes batch i * W + r.
        pin_memory: See `load_batches`.

    Shape: audio [B, C, T].

    Raises:
        DataError: At once, if a number is out of range; while iterating, if the corpus cannot be read.
    """
    if batch_size < 1 or num_workers < 0 or start_step < 0 or not 0 <= rank < world_size:
        raise DataError(
            "expected batch_size >= 1, num_workers >= 0, start_step >= 0 and 0 <= rank < world_size, "
            f"got {batch_size}, {num_workers}, {start_step}, {rank}, {world_size}"
        )
    numbers = _BatchNumbers(start_step * world_size + rank, world_size)
    return load_batches(_Batches(dataset, batch_size), numbers, num_workers, pin_memory)


def load_batches(
    batches: Dataset[Batch | str], numbers: Iterable[int] | None, num_workers: int, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Reads batches ahead in worker processes.

    Args:
        batches: Batches by number, or in an order of their own; an error message in place of one ends the iteration.
        numbers: Of the batches; None for an iterable dataset.
        num_workers: Number of processes; 0 reads in this process.
        pin_memory: Whether a thread copies the batches to page-locked memory, from which a GPU reads them while it
            computes. It needs a GPU.

    Raises:
        DataError: While iterating, with that message.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals if num_workers else None,
        generator=torch.Generator(),  # otherwise torch draws the seeds of the workers from the global generator
    )
    return _raise_errors(loader)


class _Batches(Dataset[Batch | str]):
    """Maps the number of a batch to the batch, or to an error message.

    An exception would reach the main process with the worker's traceback in its message.
    """

    def __init__(self, dataset: TrainingDataset, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __getitem__(self, number: int) -> Batch | str:
        first = number * self.batch_size
        try:
            segments = [self.dataset[index] for index in range(first, first + self.batch_size)]
            return as_batch(segments, self.dataset.segment_samples)
        except (DataError, AudioFileError) as error:
            return str(error)


def as_batch(segments: Sequence[Segment], segment_samples: int) -> Batch:
    """One batch of segments.

    Raises:
        DataError: A segment has another shape than [C, segment_samples], with the same C for all.
    """
    expected = [segments[0].audio.shape[0], segment_samples]
    for segment in segments:
        if list(segment.audio.shape) != expected:
            raise DataError(f"expected segments of shape {expected} from data.dataset, got {list(segment.audio.shape)}")
    skipped_files = dict.fromkeys(path for segment in segments for path in segment.skipped_files)
    return Batch(torch.stack([segment.audio for segment in segments]), tuple(skipped_files))


class _BatchNumbers:
    """Iterates over first, first + stride, first + 2 * stride ..."""

    def __init__(self, first: int, stride: int) -> None:
        self.first = first
        self.stride = stride

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, self.stride)


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leaves signals for the whole process group to the main process, which finishes its step; workers end with it.

    Terminals, SLURM and systemd signal all processes of a run. torch ends a worker with SIGTERM, so that signal counts
    if it comes from the parent.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where workers ignore SIGTERM and end with their parent
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def _raise_errors(loader: DataLoader[Batch | str]) -> Generator[Batch, None, None]:
    for batch in loader:
        if isinstance(batch, str):
            raise DataError(batch)
        yield batch
