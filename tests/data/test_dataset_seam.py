"""A dataset and a transform from outside the packages, named in the configuration, are trained on."""

import os
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from codec.audio import write_audio
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


class Bursts:
    """A stream of noise bursts: each depends on a generator, which is the state."""

    def __init__(self, sample_rate: int, channels: int, segment_seconds: float, seed: int, **_: Any) -> None:
        self.sample_rate, self.channels, self.seed = sample_rate, channels, seed
        self.segment_samples = round(segment_seconds * sample_rate)
        self.random = torch.Generator().manual_seed(seed)

    def shard(self, num_shards: int, index: int) -> "Bursts":
        seconds = self.segment_samples / self.sample_rate
        return Bursts(self.sample_rate, self.channels, seconds, self.seed + 1 + index)

    def __iter__(self) -> Iterator[Segment]:
        while True:
            noise = torch.rand(self.channels, self.segment_samples, generator=self.random)
            yield Segment(0.5 * noise - 0.25)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.set_state(state["random"])


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
    module.Sines, module.Bursts, module.Invert = Sines, Bursts, Invert  # type: ignore[attr-defined]
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


def test_a_run_reads_the_samples_that_its_transforms_need(outside: None, tmp_path: Path) -> None:
    speed = "data.transforms=[{_target_: data.RandomSpeed, minimum: 2, maximum: 2}]"
    settings = (*DATASET, speed, "name=fast", f"runs_folder={tmp_path}")
    with open_run(composed("train", *TINY, *settings)) as trainer:
        rate = trainer.codec.config.sample_rate
        batch = trainer.data.batch(0)
        slow = Sines(rate, 1, 0.0667, 100.0)
        assert batch.shape == (2, 1, slow.segment_samples)
        spectra = [torch.fft.rfft(audio, 10 * rate).abs().argmax(-1) / 10 for audio in (batch[0], slow[0].audio)]
        assert float(spectra[0]) == pytest.approx(2 * float(spectra[1]), rel=0.05)


@pytest.fixture
def archives(tmp_path: Path) -> str:
    """Two tar archives with two files each."""
    for number in range(4):
        write_audio(tmp_path / f"{number}.flac", 0.3 * torch.rand(1, 8000) - 0.15, 24_000)
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for each in (2 * number, 2 * number + 1):
                tar.add(tmp_path / f"{each}.flac", f"{each}.flac")
    return str(tmp_path / "*.tar")


@pytest.mark.parametrize("kind", ["outside.Bursts", "data.TarDataset"])
def test_a_stream_is_trained_on_and_resumes_to_the_same_bits(
    kind: str, outside: None, archives: str, tmp_path: Path
) -> None:
    """Three steps with two workers in one go, and with a stop after the first step; the third is of the first shard."""
    settings = (
        f"data.dataset._target_={kind}",
        *([f"+data.dataset.shards={archives}"] if kind == "data.TarDataset" else []),
        "data.transforms=[{_target_: data.RandomGain}]",
        "data.num_workers=2",
        "trainer.checkpoint_every=1",
        "trainer.validate_every=9",
        f"runs_folder={tmp_path}",
    )
    states = {}
    for name, stops in (("whole", [3]), ("stopped", [1, 3])):
        for stop in stops:
            cfg = composed("train", *TINY, *settings, f"name={name}", "trainer.max_steps=3")
            with open_run(cfg) as trainer:
                trainer.config = replace(trainer.config, max_steps=stop)
                trainer.run()
                assert trainer.step == stop
                states[name] = trainer.state_dict()
    assert states["stopped"]["data"][0]["step"] == 3
    for part in ("codec", "average", "adversarial", "optimizer", "balancer", "data", "random"):
        assert_equal(states["stopped"][part], states["whole"][part])


def assert_equal(one: Any, other: Any) -> None:
    """To the bit, at any depth."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
    if isinstance(one, dict | list):
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_equal(one[key], other[key])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_an_epoch_needs_a_length(outside: None, tmp_path: Path) -> None:
    settings = ("data.dataset._target_=outside.Bursts", "trainer.max_steps=null", "trainer.max_epochs=2")
    with (
        pytest.raises(ValueError, match=r"trainer\.max_epochs needs a data\.dataset that has a length: set trainer"),
        open_run(composed("train", *TINY, *settings, "name=epochs", f"runs_folder={tmp_path}")),
    ):
        pass


def test_any_name_travels_through_a_whole_run(tmp_path: Path) -> None:
    """A folder in Latin-1 with names of 240 bytes; the clips and the list of skipped files get printable names."""
    for number in range(3):
        write_audio(tmp_path / f"{number}.wav", 0.3 * torch.rand(1, 24_000) - 0.15, 24_000)
    root = tmp_path / os.fsdecode(b"h\xf6rspiel (1) = a, b\n#2 & 'c'")
    root.mkdir()
    for number in range(3):
        (tmp_path / f"{number}.wav").rename(root / os.fsdecode(b"\xe9" * 235 + b"%d.wav" % number))
    (root / os.fsdecode(b"\xff.m4a")).touch()
    tiny = [setting for setting in TINY if setting != "data=clips"]
    cfg = composed("train", *tiny, "data=folder", "data.root=x", "trainer.max_steps=1", f"runs_folder={tmp_path}/runs")
    cfg.name, cfg.data.root = "odd", str(root)
    for _ in range(2):  # the second time it compares the settings with config.yaml
        with open_run(cfg) as trainer:
            trainer.run()
    run = tmp_path / "runs" / "odd"
    assert (run / "skipped_files.txt").read_text("utf-8").count("\\xff.m4a\tlibsndfile cannot decode .m4a") == 1
    assert OmegaConf.load(run / "config.yaml").data.root == str(root)
    assert all(path.name.isascii() for path in (run / "samples").iterdir())


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
