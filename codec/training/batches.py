"""Training batches by step."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from data import Batch, TrainingDataset, training_batches

__all__ = ["TrainingData"]


@dataclass(frozen=True)
class TrainingData:
    """Batches by step. The batch of a step does not depend on earlier steps.

    Args:
        dataset: Segments by index.
        batch_size: Segments per batch, over all processes of the run.
        num_workers: Processes that read ahead; 0 reads in the training process.
        rank: Number of this process.
        world_size: Number of processes; each gets an equal part of every batch.

    Raises:
        ValueError: A value is out of range, or the processes cannot have equal parts of a batch.
    """

    dataset: TrainingDataset
    batch_size: int
    num_workers: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"data.{name} must be a whole number of at least {least}, got {value!r}")
        if self.batch_size % self.world_size:
            raise ValueError(
                f"data.batch_size must be a multiple of the number of processes, {self.world_size}, "
                f"got {self.batch_size}"
            )

    def batches(self, start_step: int) -> Iterator[Batch]:
        """This process's parts of all batches from `start_step` on, without an end."""
        return self._read(self.num_workers, start_step)

    def batch(self, step: int) -> Tensor:
        """This process's part of one batch, read in this process.

        Shape: -> audio [B, C, T].
        """
        return next(self._read(0, step)).audio

    def _read(self, num_workers: int, start_step: int) -> Iterator[Batch]:
        part_size = self.batch_size // self.world_size
        return training_batches(self.dataset, part_size, num_workers, start_step, self.rank, self.world_size)

    @property
    def steps_per_epoch(self) -> float:
        return len(self.dataset) / self.batch_size

    @property
    def seconds_per_step(self) -> float:
        """Seconds of audio in a batch."""
        return self.batch_size * self.dataset.segment_samples / self.dataset.sample_rate
