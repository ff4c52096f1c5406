"""A training run of three tiny steps that tests give bad audio or bad settings."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from hydra import compose, initialize_config_dir

from scripts.errors import describe_error
from scripts.overrides import prepare
from scripts.train import run

__all__ = [
    "CLIPS", "ROOT", "TINY", "assert_trained", "folder_of", "from_folder", "line_of", "noise", "refused",
    "skipped_files", "tiny", "train", "write",
]  # fmt: skip

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "data" / "clips"
RATE = 24000

# Three steps of a codec of a few thousand parameters, with the full set of losses.
TINY = (
    "experiment=starter_seanet",
    "codec.network.filters=2",
    "codec.network.latent_dim=4",
    "adversarial.start_fraction=0",
    "discriminator.windows=[256]",
    "trainer.max_steps=3",
    "trainer.log_every=1",
    "trainer.validate_every=3",
    "trainer.checkpoint_every=3",
    "trainer.codebooks={start_fraction: 0, init_batches: 1}",
    "trainer.device=cpu",
    "trainer.precision=float32",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.segment_seconds=0.2",
    "data.held_out={seconds: 0.2, clips_per_source: 1}",
    "name=bad",
)


def tiny(*overrides: str) -> list[str]:
    """TINY without its experiment, or its discriminator settings, if the overrides choose others."""
    exchanged = [f"{key}{mark}" for key in ("experiment", "discriminator") for mark in "=."
                 if any(item.startswith(f"{key}=") for item in overrides)]  # fmt: skip
    return [item for item in TINY if not item.startswith(tuple(exchanged))]


def train(runs: Path, *overrides: str) -> Path:
    """Trains in this process; returns the run's folder."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        run(compose("train", prepare([*tiny(*overrides), f"runs_folder={runs}", *overrides])))
    return runs / "bad"


def line_of(action: Callable[[], object]) -> str:
    """The line that is printed when `action` fails."""
    try:
        action()
    except Exception as error:
        line = describe_error(error)
        assert line
        assert "\n" not in line
        return line
    raise AssertionError("nothing was refused")


def refused(runs: Path, *overrides: str) -> str:
    line = line_of(lambda: train(runs, *overrides))
    assert not (runs / "bad").exists()  # so the name can be used again
    return line


def assert_trained(folder: Path) -> None:
    """Asserts that all three steps were done, none was skipped, and the model exists."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "train"][-1]
    assert (last["step"], last["skipped_steps"]) == (3, 0)
    assert (folder / "model.safetensors").exists()


def skipped_files(folder: Path) -> dict[str, str]:
    lines = (folder / "skipped_files.txt").read_text().splitlines()
    return {Path(path).name: reason for path, reason in (line.split("\t") for line in lines)}


def noise(seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * RATE), channels)).astype(np.float32)


def write(path: Path, audio: np.ndarray, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, RATE, **options)


def folder_of(path: Path, files: int = 4, seconds: float = 0.5) -> Path:
    for number in range(files):
        write(path / f"{number:02d}.wav", noise(seconds, seed=number))
    return path


def from_folder(root: Path) -> tuple[str, str]:
    return "data=folder", f"data.root={root}"
