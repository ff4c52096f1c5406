"""The number of loader workers follows from the machine if none is given."""

import os

import pytest
import torch

from codec.training import TrainingData
from codec.training.batches import default_num_workers
from data import Segment


class Silence:
    """Segments by index."""

    sample_rate = 8000
    segment_samples = 8

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Segment:
        return Segment(torch.zeros(1, self.segment_samples))


@pytest.mark.parametrize("has_affinity", [True, False])
@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(1, 1, 1), (2, 1, 1), (7, 1, 3), (16, 1, 8), (96, 1, 8), (16, 2, 4), (96, 8, 6), (4, 8, 1)],
)
def test_the_default_is_half_of_the_cores_divided_by_the_processes_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, expected: int, has_affinity: bool
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1000 if has_affinity else cores)
    if has_affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    if processes == 1:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_num_workers() == expected
    assert TrainingData(Silence(), 2, None).num_workers == expected
    assert TrainingData(Silence(), 2, 5).num_workers == 5
