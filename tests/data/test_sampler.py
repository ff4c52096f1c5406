"""Batches are the same for any number of workers, and from any step on."""

import itertools
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import Batch, DataError, SegmentDataset, clips, scan_folder, training_batches

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # machines with a single core


def dataset() -> SegmentDataset:
    return SegmentDataset(clips().train, 16000, 1, 0.1, seed=2)


def take(count: int, num_workers: int, start_step: int = 0, **ranks: int) -> list[Batch]:
    batches = training_batches(dataset(), 3, num_workers, start_step, **ranks)
    return list(itertools.islice(batches, count))


def test_batch_i_holds_its_segments_for_any_number_of_workers() -> None:
    segments = dataset()
    for num_workers in (0, 1, 2):
        for step, batch in enumerate(take(4, num_workers)):
            expected = torch.stack([segments[index].audio for index in range(3 * step, 3 * step + 3)])
            assert torch.equal(batch.audio, expected)
            assert (batch.audio.dtype, batch.skipped_files) == (torch.float32, ())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(num_workers: int) -> None:
    whole = take(6, num_workers=0)
    for start in (1, 4):
        resumed = take(6 - start, num_workers, start_step=start)
        assert all(torch.equal(a.audio, b.audio) for a, b in zip(whole[start:], resumed, strict=True))


def test_ranks_divide_the_same_sequence() -> None:
    whole = take(6, num_workers=0)
    shares = [take(3, num_workers=0, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(3):
        for rank in (0, 1):
            assert torch.equal(shares[rank][step].audio, whole[2 * step + rank].audio)
    resumed = take(1, num_workers=0, start_step=2, rank=1, world_size=2)
    assert torch.equal(resumed[0].audio, whole[5].audio)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_generators_are_not_used(num_workers: int) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator is what is tested)
    states = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    first = take(2, num_workers)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert repr(np.random.get_state()) == states[1]  # noqa: NPY002
    torch.manual_seed(1)
    assert all(torch.equal(a.audio, b.audio) for a, b in zip(first, take(2, num_workers), strict=True))


def test_workers_end_with_the_iterator() -> None:
    before = set(multiprocessing.active_children())
    batches = training_batches(dataset(), 2, 2, 0)
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    batches.close()
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_files_are_listed_once_a_batch_and_errors_are_one_line(tmp_path: Path, num_workers: int) -> None:
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    segments = SegmentDataset(scan_folder(tmp_path), 16000, 1, 0.1)
    (tmp_path / "b.wav").unlink()
    batch = next(training_batches(segments, 16, num_workers, 0))
    assert batch.audio.shape == (16, 1, 1600)
    assert batch.skipped_files == (str(tmp_path / "b.wav"),)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match="reads for segment 0 failed") as caught:
        next(training_batches(segments, 2, num_workers, 0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "numbers", [(0, 0, 0, 0, 1), (1, -1, 0, 0, 1), (1, 0, -1, 0, 1), (1, 0, 0, 1, 1), (1, 0, 0, -1, 2)]
)
def test_numbers_out_of_range_are_refused_at_once(numbers: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(DataError, match="expected batch_size"):
        training_batches(dataset(), *numbers)
