"""Configurations of tests/scripts that are small where the size is not tested, and the options of configs/."""

import atexit
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from codec.training import Trainer

__all__ = [
    "CLIPS",
    "CONFIGS",
    "NEEDS",
    "QUICK",
    "SMALL",
    "Build",
    "configuration",
    "experiments",
    "options",
    "small_with",
]

Build = Callable[..., Trainer]  # of overrides
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
CLIPS = ROOT / "data" / "clips"
_NOT_GROUPS = ("experiment", "balancer/engine")  # the engine is part of every strategy

# Tiny settings; any option of any group can follow.
QUICK = (
    "name=test",
    "data.num_workers=0",
    "data.held_out.seconds=0.5",
    "data.held_out.clips_per_source=1",
    "trainer.device=cpu",
)
SMALL = (
    "codec=starter_seanet",
    "codec.network.filters=2",
    "codec.network.latent_dim=8",
    "discriminator=small",
    "discriminator.filters=2",
    "data=clips",
)


def _archive() -> str:
    """The clips as a tar archive."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    with tarfile.open(f"{folder}/clips.tar", "w") as tar:
        tar.add(CLIPS / "train", "clips")
    return f"{folder}/clips.tar"


# Settings that an option needs in addition.
NEEDS: dict[str, tuple[str, ...]] = {
    "codec=audiocraft_16khz": ("validation.bandwidth_kbps=2.2",),
    "codec=audiocraft_32khz": ("validation.bandwidth_kbps=2.2",),
    "data=starter": ("data.root=nowhere",),
    "data=large": ("data.root=nowhere",),
    "data=folder": (f"data.root={CLIPS / 'train' / 'speech'}",),
    "data=manifest": (f"data.corpus.train={CLIPS}/train.jsonl", f"data.corpus.held_out={CLIPS}/held_out.jsonl"),
    "data=encodec_mix": (f"data.root={CLIPS / 'train'}",),
    "data=hilcodec_mix": (f"data.root={CLIPS / 'train'}", "data.dataset.roles.noise=[effects]"),
    "data=voices": (f"data.root={CLIPS / 'train'}",),
    "data=tar": (f"data.dataset.shards={_archive()}", f"data.corpus.held_out={CLIPS}/held_out.jsonl"),
    "discriminator=none": ("losses=reconstruction",),
    "losses=energy_distance": ("discriminator=none",),
    "losses=reconstruction": ("discriminator=none",),
    "logger=wandb": ("logger.sinks.0.mode=disabled",),
}


def configuration(*overrides: str) -> DictConfig:
    """The training configuration with `QUICK` and these overrides."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [*QUICK, *overrides])


def small_with(option: str) -> list[str]:
    """The option, the settings that it needs, and the settings of SMALL for all other groups."""
    chosen = [option, *NEEDS.get(option, ())]
    groups = tuple(f"{item.partition('=')[0]}{mark}" for item in chosen for mark in "=.")
    return [*(item for item in SMALL if not item.startswith(groups)), *chosen]


def options() -> list[str]:
    """GROUP=OPTION for every file of every group, nested groups included."""
    found = []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        group = path.parent.relative_to(CONFIGS).as_posix()
        if group not in (".", *_NOT_GROUPS):
            found.append(f"{group}={path.stem}")
    return found


def experiments() -> list[str]:
    """All experiments but `none`."""
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml") if path.stem != "none")
