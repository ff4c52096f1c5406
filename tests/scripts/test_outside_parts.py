"""Parts from outside the packages, selected by settings alone: three training steps with one of each kind."""

import json
import sys
from pathlib import Path

import pytest
import torch

import codec
import outside_parts
from codec.training import Trainer, load_checkpoint
from scripts.train import train
from tiny_command import TINY

CODEC = """
_target_: codec.Codec
sample_rate: 24000
bandwidths_kbps: null
normalize: false
segment_seconds: null
overlap: 0.01
network:
  _target_: outside_parts.FramedNetwork
  width: 6
quantizer:
  _target_: outside_parts.ScalarQuantizer
  levels: [16, 16, 8, 8]
"""
DISCRIMINATOR = """
_target_: outside_parts.ConvDiscriminator
channels: 3
"""
OVERRIDES = (
    "codec=mine",
    "discriminator=mine",
    "experiment=none",
    "+losses.terms.energy={_target_:outside_parts.EnergyLoss}",
    "+losses.weights.energy=0.5",
    "balancer=weighted_sum",
    "balancer.scale._target_=outside_parts.DrawingScale",
    "validation.metrics=[mel_distance,'outside_parts:PEAK']",
    "validation.bandwidth_kbps=1.2",
    "trainer.init=random",
    "data.dataset._target_=outside_parts.ToneDataset",
    "data.transforms=[{_target_:outside_parts.Attenuate,minimum:0.5}]",
)
# Settings of TINY that the parts do not have.
OTHERS = ("experiment=", "codec.", "discriminator.", "validation.bandwidth_kbps=", "+losses.terms.tonality")


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """A user's folder of settings."""
    for group, text in (("codec", CODEC), ("discriminator", DISCRIMINATOR)):
        (tmp_path / "mine" / group).mkdir(parents=True)
        (tmp_path / "mine" / group / "mine.yaml").write_text(text)
    return tmp_path / "mine"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every batch that is trained on."""
    seen: list[torch.Tensor] = []
    train_step = Trainer.train_step

    def recorded(trainer: Trainer, audio: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(audio)
        return train_step(trainer, audio)

    monkeypatch.setattr(Trainer, "train_step", recorded)
    return seen


def run_command(config_dir: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> Path:
    settings = [item for item in TINY if not item.startswith(OTHERS)]
    arguments = ["--config-dir", str(config_dir), *settings, *OVERRIDES, "name=outside", f"runs_folder={runs}"]
    monkeypatch.setattr(sys, "argv", ["train", *arguments, f"trainer.max_steps={steps}"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)
    train()
    return runs / "outside"


def test_three_steps_with_parts_from_outside_the_packages(
    config_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[torch.Tensor]
) -> None:
    """Three steps, and the same three after an interruption."""
    run = run_command(config_dir, tmp_path / "whole", monkeypatch, 3)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in steps] == [1, 2, 3]
    for name in ("energy", "adversarial", "feature_matching", "mel"):
        assert all(record[f"loss/{name}"] is not None for record in steps), name
    assert [record["speech/peak"] > 0 for record in records if record["split"] == "validation"] == [True] * 3

    tones = outside_parts.ToneDataset(24_000, 1, 0.0667, seed=0)
    for step, batch in enumerate(batches):
        for row, audio in enumerate(batch):
            gain = audio.norm() / tones[2 * step + row].audio.norm()
            assert 0.5 <= gain < 1
            torch.testing.assert_close(audio, gain * tones[2 * step + row].audio)

    run_command(config_dir, tmp_path / "resumed", monkeypatch, 2)
    resumed = run_command(config_dir, tmp_path / "resumed", monkeypatch, 3)
    parts = {"FramedNetwork": outside_parts.FramedNetwork, "ScalarQuantizer": outside_parts.ScalarQuantizer}
    first, again = (codec.load(folder / "model.safetensors", parts) for folder in (run, resumed))
    assert load_checkpoint(resumed).step == 3
    for (name, one), other in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    audio = torch.randn(1, 1, 2400)
    codes = first.encode_segments(audio, 1.2)[0].codes
    assert codes.shape == (1, 2, 15)  # 0.6 kbps per codebook of 16 codes, 160 samples per frame
