"""Augmentation: deterministic by seed and index, and open to functions from outside."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from data import (
    DataError,
    RandomGain,
    SegmentDataset,
    TransformedDataset,
    input_samples,
    scan_folder,
    training_batches,
)

RATE = 8000


@pytest.fixture
def segments(tmp_path: Path) -> SegmentDataset:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 2 * RATE), RATE, subtype="FLOAT")
    return SegmentDataset(scan_folder(tmp_path), RATE, 1, 0.1)


def add_noise(audio: Tensor, generator: torch.Generator) -> Tensor:
    """A transform from outside the package."""
    return audio + 0.01 * torch.randn(audio.shape, generator=generator)


def test_transforms_depend_on_seed_and_index_alone(segments: SegmentDataset) -> None:
    one = TransformedDataset(segments, [RandomGain(), add_noise], seed=3)
    two = TransformedDataset(segments, [RandomGain(), add_noise], seed=3)
    forwards, backwards = [one[i].audio for i in range(5)], [two[i].audio for i in reversed(range(5))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    other_seed = TransformedDataset(segments, [RandomGain(), add_noise], seed=4)
    assert not any(torch.equal(audio, other_seed[i].audio) for i, audio in enumerate(forwards))
    only_gain = TransformedDataset(segments, [RandomGain()], seed=3)
    noises = [audio - only_gain[i].audio for i, audio in enumerate(forwards)]
    assert len({noise.numpy().tobytes() for noise in noises}) == 5


def test_transforms_are_applied_in_order(segments: SegmentDataset) -> None:
    dataset = TransformedDataset(segments, [lambda audio, _: audio + 1, lambda audio, _: 2 * audio])
    assert torch.equal(dataset[0].audio, 2 * (segments[0].audio + 1))
    assert (len(dataset), dataset.sample_rate, dataset.segment_samples) == (len(segments), RATE, RATE // 10)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # machines with a single core
def test_batches_hold_transformed_segments(segments: SegmentDataset, num_workers: int) -> None:
    dataset = TransformedDataset(segments, [RandomGain(), add_noise])
    batch = next(training_batches(dataset, 3, num_workers, 2))
    assert torch.equal(batch.audio, torch.stack([dataset[index].audio for index in (6, 7, 8)]))


@pytest.mark.parametrize("cut", [slice(1, None), slice(None, -1)])
def test_a_transform_must_keep_the_shape(segments: SegmentDataset, cut: slice) -> None:
    dataset = TransformedDataset(segments, [lambda audio, _: audio[:, cut]])
    with pytest.raises(DataError, match=r"\[1, 800\] from the transform <lambda>, got \[1, 799\]"):
        dataset[0]


class Slope:
    """Differences between samples: needs one more than it returns, or as many more as it is told."""

    def __init__(self, more: int = 1) -> None:
        self.more = more

    def input_samples(self, samples: int) -> int:
        return samples + self.more

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        return audio.diff(dim=-1)


def test_a_transform_may_need_more_samples_than_it_returns(segments: SegmentDataset) -> None:
    """The dataset gives 800 samples. Each transform is given what the later ones need, and no more."""
    transforms = [Slope(3), lambda audio, _: 2 * audio, Slope()]
    assert input_samples(transforms, 796) == 800
    dataset = TransformedDataset(segments, transforms, segment_samples=796)
    assert dataset.segment_samples == 796
    assert torch.equal(dataset[1].audio, (2 * segments[1].audio.diff(dim=-1)).diff(dim=-1)[:, :796])
    with pytest.raises(DataError, match="need segments of 804 samples to return 800, the dataset gives 800"):
        TransformedDataset(segments, transforms)
    with pytest.raises(DataError, match=r"\[1, 800\] from the transform Slope, got \[1, 799\]"):
        TransformedDataset(segments, [Slope(0)])[0]
