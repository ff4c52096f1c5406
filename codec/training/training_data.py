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
        batch_size: Segments in a batch.
        workers: Processes that read ahead; 0 reads in the training process.
    """

    dataset: SegmentDataset
    batch_size: int
    workers: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a whole number from 1 on, got {self.batch_size!r}")
        if not isinstance(self.workers, int) or self.workers < 0:
            raise ValueError(f"workers must be a whole number from 0 on, got {self.workers!r}")

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Endless, from the batch of `start_step`."""
        return training_batches(self.dataset, self.batch_size, self.workers, start_step)

    def batch(self, step: int) -> Tensor:
        """The batch of one step, read in this process.

        Shape: -> audio [B, C, T].
        """
        return next(training_batches(self.dataset, self.batch_size, 0, step)).audio

    @property
    def steps_per_epoch(self) -> float:
        return self.dataset.segments_per_epoch / self.batch_size

    @property
    def seconds_per_step(self) -> float:
        return self.batch_size * self.dataset.segment_seconds
