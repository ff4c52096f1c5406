"""A dataset and a transform from outside the packages, named in the configuration, are trained on."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from data import DataError, Segment
from scripts.composition import open_run
from tiny_command import TINY, composed

DATASET = ("data.dataset._target_=outside.Sines", "+data.dataset.base_hz=100.0")


class Sines:
    """A dataset without files: the frequency of a segment follows from its index."""

    def __init__(self, sample_rate: int, channels: int, segment_seconds: float, base_hz: float, **_: Any) -> None:
        self.sample_rate = sample_rate
        self.segment_samples = round(segment_seconds * sample_rate)
        self.channels = channels
        self.base_hz = base_hz

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Segment:
        time = torch.arange(self.segment_samples) / self.sample_rate
        audio = torch.sin(2 * torch.pi * self.base_hz * (1 + index % len(self)) * time)
        return Segment(0.5 * audio.expand(self.channels, -1))


def invert(audio: Tensor, generator: torch.Generator) -> Tensor:
    """A transform that needs no random numbers."""
    return -audio


class Invert:
    """The same as a class, for the configuration."""

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        return invert(audio, generator)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("outside")
    module.Sines, module.Invert = Sines, Invert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "outside", module)


def test_a_dataset_and_a_transform_from_outside_are_trained_on(outside: None, tmp_path: Path) -> None:
    settings = (
        *DATASET,
        "data.transforms=[{_target_: outside.Invert}]",
        "trainer.max_steps=3",
        "name=outside",
        f"runs_folder={tmp_path}",
    )
    with open_run(composed("train", *TINY, *settings)) as trainer:
        sines = Sines(trainer.codec.config.sample_rate, 1, 0.0667, 100.0)
        assert torch.equal(trainer.data.batch(1), -torch.stack([sines[2].audio, sines[3].audio]))
        trainer.run()
        assert trainer.step == 3


def test_the_training_files_may_be_left_out_for_such_a_dataset(outside: None, tmp_path: Path) -> None:
    held_out = Path(__file__).parents[2] / "data/clips/held_out.jsonl"
    settings = (
        "data=manifest",
        "data.corpus.train=null",
        f"data.corpus.held_out={held_out}",
        f"runs_folder={tmp_path}",
    )
    tiny = [setting for setting in TINY if setting != "data=clips"]
    with open_run(composed("train", *tiny, *settings, *DATASET, "name=outside")) as trainer:
        assert len(trainer.validation.clips) == 3
    with (
        pytest.raises(DataError, match="no files to read segments from"),
        open_run(composed("train", *tiny, *settings, "name=without")),
    ):
        pass
