"""The number of loader workers follows from the machine if none is given."""

import math
import os
from pathlib import Path

import pytest
import torch

from codec.training import TrainingData, batches
from codec.training.batches import default_num_workers
from codec.training.startup.cpu import cpu_quota
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
    monkeypatch.setattr(batches, "cpu_quota", lambda: math.inf)
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


def test_the_quota_of_a_container_counts_as_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for quota, expected in ((0.5, 1), (3.9, 1), (4.0, 2), (64.0, 8)):
        monkeypatch.setattr(batches, "cpu_quota", lambda quota=quota: quota)
        assert default_num_workers() == expected


def test_the_quota_is_the_least_of_a_group_and_those_above(tmp_path: Path) -> None:
    root, groups = tmp_path / "cgroup", tmp_path / "self"
    assert cpu_quota(root, groups) == math.inf  # no control groups
    (root / "job" / "step").mkdir(parents=True)
    groups.write_text("1:cpu:/elsewhere\n0::/job/step\n")
    assert cpu_quota(root, groups) == math.inf  # only version 1 has limits
    (root / "job" / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(root, groups) == math.inf
    (root / "job" / "cpu.max").write_text("400000 100000\n")
    assert cpu_quota(root, groups) == 4
    (root / "job" / "step" / "cpu.max").write_text("75000 50000\n")
    assert cpu_quota(root, groups) == 1.5
    groups.write_text("0::/\n")  # as in a container, which sees its own group as the root
    (root / "cpu.max").write_text("200000 100000\n")
    assert cpu_quota(root, groups) == 2
