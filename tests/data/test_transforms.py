"""Augmentation: deterministic by seed and index, and open to functions from outside."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from data import DataError, RandomGain, SegmentDataset, TransformedDataset, level_dbfs, scan_folder, training_batches

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


def test_a_transform_must_keep_the_shape(segments: SegmentDataset) -> None:
    dataset = TransformedDataset(segments, [lambda audio, _: audio[:, 1:]])
    with pytest.raises(DataError, match=r"\[1, 800\], got \[1, 799\]"):
        dataset[0]


def test_random_gain_is_uniform_in_db() -> None:
    tone = 0.1 * torch.sin(torch.arange(1000) / 5)[None]
    gain = RandomGain(-12, 6)
    generator = torch.Generator().manual_seed(0)
    levels = np.array([level_dbfs(gain(tone, generator)) - level_dbfs(tone) for _ in range(500)])
    assert -12 <= levels.min() < -11.5
    assert 5.5 < levels.max() <= 6 + 1e-4
    assert np.mean(levels) == pytest.approx(-3, abs=4 * 18 / math.sqrt(12 * 500))  # four standard deviations


def test_random_gain_does_not_exceed_full_scale() -> None:
    audio = torch.tensor([[0.9, -0.5]])
    loud = RandomGain(20, 20)(audio, torch.Generator())
    torch.testing.assert_close(loud, audio / 0.9)
    assert torch.equal(RandomGain(20, 20)(torch.zeros(1, 5), torch.Generator()), torch.zeros(1, 5))
    assert RandomGain()(torch.zeros(1, 0), torch.Generator()).shape == (1, 0)
    with pytest.raises(DataError, match="minimum_db <= maximum_db, got 6 and -12"):
        RandomGain(6, -12)
