"""What a run trains on, by step."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from data import Batch, SegmentDataset, training_batches

__all__ = ["TrainingData"]


@dataclass(frozen=True)
class TrainingData:
    """Batches by step: step i of a run always sees the same one, whatever came before.

    Args:
        dataset: Segments by index.
        batch_size: Segments in a batch, over all processes of the run.
        num_workers: Processes that read ahead; 0 reads in the training process.
        rank, processes: Which part of each batch this is, of how many equal ones.
    """

    dataset: SegmentDataset
    batch_size: int
    num_workers: int = 1
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a whole number from 1 on, got {self.batch_size!r}")
        if not isinstance(self.num_workers, int) or self.num_workers < 0:
            raise ValueError(f"num_workers must be a whole number from 0 on, got {self.num_workers!r}")
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size is shared out to {self.processes} processes: wanted a multiple, got {self.batch_size}"
            )

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Endless, from the batch of `start_step`; of each this process's part."""
        return self._read(self.num_workers, start_step)

    def batch(self, step: int) -> Tensor:
        """This process's part of the batch of one step, read here and now.

        Shape: -> audio [B, C, T].
        """
        return next(self._read(0, step)).audio

    def _read(self, num_workers: int, start_step: int) -> Iterator[Batch]:
        size = self.batch_size // self.processes
        return training_batches(self.dataset, size, num_workers, start_step, self.rank, self.processes)

    @property
    def steps_per_epoch(self) -> float:
        return self.dataset.segments_per_epoch / self.batch_size

    @property
    def seconds_per_step(self) -> float:
        return self.batch_size * self.dataset.segment_seconds
