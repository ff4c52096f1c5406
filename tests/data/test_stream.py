"""Iterable datasets: batches from shards, and exact resume from their states."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from codec.training import TrainingData
from data import (
    Batch,
    DataError,
    IterableTrainingDataset,
    RandomGain,
    Segment,
    is_iterable,
    stream_batches,
    transformed,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # machines with a single core


class Numbers:
    """Segments that hold their number, in passes of `length`; each also holds a random number of its shard."""

    sample_rate = 8000
    segment_samples = 2

    def __init__(self, length: int, num_shards: int = 1, index: int = 0) -> None:
        self.numbers = range(index, length, num_shards)
        self.position = 0
        self.random = torch.Generator().manual_seed(index)
        self.state: dict[str, Any] = {}

    def shard(self, num_shards: int, index: int) -> "Numbers":
        return Numbers(len(self.numbers), num_shards, index)

    def __iter__(self) -> Iterator[Segment]:
        while self.position < len(self.numbers):
            number = self.numbers[self.position]
            self.position += 1
            noise = float(torch.rand((), generator=self.random))
            yield Segment(torch.tensor([[float(number), noise]]), skipped_files=("bad.wav",) if number == 3 else ())
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        self.state |= {"position": self.position, "random": self.random.get_state()}
        return self.state  # the same object each time, as some datasets do

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
        self.random.set_state(state["random"])


def numbers(batches: list[Batch]) -> list[list[int]]:
    return [batch.audio[:, 0, 0].int().tolist() for batch in batches]


def take(data: TrainingData, count: int) -> list[Batch]:
    """Trains on the next batches."""
    taken = list(itertools.islice(data.batches(data.state_dict()["step"]), count))
    for batch in taken:
        data.advance(batch)
    return taken


def test_shards_take_turns_and_passes_follow_each_other() -> None:
    batches = list(itertools.islice(stream_batches(Numbers(8), 2, 0, [None, None]), 5))
    assert numbers(batches) == [[0, 2], [1, 3], [4, 6], [5, 7], [0, 2]]
    assert [batch.skipped_files for batch in batches] == [(), ("bad.wav",), (), (), ()]
    assert batches[0].audio.shape == (2, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_stream_is_that_of_an_uninterrupted_one(num_workers: int) -> None:
    whole = take(TrainingData(Numbers(10), 3, num_workers), 9)
    for stop in (1, 4):
        first = TrainingData(Numbers(10), 3, num_workers)
        taken = take(first, stop)
        state = first.state_dict()
        list(itertools.islice(first.batches(stop), 3))  # read ahead, but not trained on
        resumed = TrainingData(Numbers(10), 3, num_workers)
        resumed.load_state_dicts([state])
        ahead = [resumed.batch(step) for step in (stop + 2, stop)]
        taken += take(resumed, 9 - stop)
        assert all(torch.equal(one.audio, other.audio) for one, other in zip(taken, whole, strict=True))
        assert torch.equal(ahead[0], whole[stop + 2].audio)
        assert torch.equal(ahead[1], whole[stop].audio)


def test_workers_change_nothing_but_the_number_of_shards() -> None:
    alone = numbers(take(TrainingData(Numbers(12), 2, 0), 4))
    assert numbers(take(TrainingData(Numbers(12), 2, 1), 4)) == alone == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert numbers(take(TrainingData(Numbers(12), 2, 2), 4)) == [[0, 2], [1, 3], [4, 6], [5, 7]]


@pytest.mark.slow
def test_ranks_read_shards_of_their_own_and_resume() -> None:
    def ranks() -> list[TrainingData]:
        return [TrainingData(Numbers(16), 4, 2, rank, world_size=2) for rank in (0, 1)]

    whole = [take(data, 4) for data in ranks()]
    assert sorted(itertools.chain(*numbers(whole[0]), *numbers(whole[1]))) == list(range(16))
    stopped, resumed = ranks(), ranks()
    for data in stopped:
        take(data, 1)
    for rank, data in enumerate(resumed):
        data.load_state_dicts([each.state_dict() for each in stopped])
        rest = take(data, 3)
        assert all(torch.equal(a.audio, b.audio) for a, b in zip(rest, whole[rank][1:], strict=True))


def test_a_state_belongs_to_its_number_of_shards_and_to_its_step() -> None:
    data = TrainingData(Numbers(10), 2, 2)
    take(data, 2)
    with pytest.raises(DataError, match="the checkpoint has 1 and 2, got 1 and 3"):
        TrainingData(Numbers(10), 2, 3).load_state_dicts([data.state_dict()])
    with pytest.raises(DataError, match="state of step 2 and cannot go back to step 1"):
        data.batch(1)


def test_the_number_of_workers_does_not_depend_on_the_machine() -> None:
    with pytest.raises(ValueError, match=r"data\.num_workers must be a number .* set data\.num_workers=2"):
        TrainingData(Numbers(10), 2, None)


def test_transforms_draw_by_segment_and_resume() -> None:
    def data() -> TrainingData:
        return TrainingData(transformed(Numbers(20), [RandomGain(-20, -1)], seed=3), 2, 0)

    whole = take(data(), 4)
    gains = torch.cat([batch.audio[:, 0, 0] for batch in whole])[1:] / torch.arange(1, 8)
    assert len(set(gains.tolist())) == 7
    first, second = data(), data()
    take(first, 2)
    second.load_state_dicts([first.state_dict()])
    assert torch.equal(take(second, 2)[1].audio, whole[3].audio)


def test_transforms_of_a_stream_may_need_more_samples() -> None:
    class First:
        def input_samples(self, samples: int) -> int:
            return 2 * samples

        def __call__(self, audio: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return audio[:, :1]

    stream = transformed(Numbers(20), [First()], segment_samples=1)
    assert stream.segment_samples == 1
    assert numbers(take(TrainingData(stream, 2, 2), 2)) == [[0, 2], [1, 3]]


class Misshapen(Numbers):
    def shard(self, num_shards: int, index: int) -> "Numbers":
        return self

    def __iter__(self) -> Iterator[Segment]:
        yield Segment(torch.zeros(1, 2))
        yield Segment(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Numbers(1), r"a shard of data\.dataset has no segments: lower data\.num_workers"),
        (Misshapen(4), r"expected segments of shape \[1, 2\] from data\.dataset, got \[1, 3\]"),
    ],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_mistakes_are_one_line(dataset: IterableTrainingDataset, message: str, num_workers: int) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(itertools.islice(stream_batches(dataset, 2, num_workers, [None, None]), 3))
    assert "\n" not in str(caught.value)


def test_a_class_that_follows_neither_protocol_is_named() -> None:
    assert is_iterable(Numbers(3))
    with pytest.raises(DataError, match=r"expected a class with __getitem__ and __len__.*, got Namespace"):
        is_iterable(type("Namespace", (), {})())
