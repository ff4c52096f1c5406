"""The settings of a run and its folder: unknown settings are refused, and a folder holds only one run."""

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from codec.atomic_file import atomic_write, new_folder
from codec.audio import readable
from codec.folder_lock import FolderInUse, locked

__all__ = [
    "CHANGEABLE_ON_RESUME",
    "KEYS",
    "check_folder",
    "check_keys",
    "check_unchanged",
    "check_writable",
    "claimed",
    "resolve",
    "save_config",
]

# Settings that scripts/composition.py and scripts/parts.py read by name. All others are arguments of a class or
# function, which refuses unknown names. A misspelled one in an experiment file would have no effect here, so
# `check_keys` refuses it.
KEYS = {
    "": (
        *(
            "name",
            "runs_folder",
            "seed",
            "init_from",
            "init_from_parts",
            "codec",
            "discriminator",
            "adversarial",
            "losses",
            "balancer",
        ),
        *("data", "optimizer", "trainer", "logger", "validation", "checkpoints"),
    ),
    "losses": ("terms", "adversarial", "weights"),
    "data": ("root", "corpus", "dataset", "transforms", "segment_seconds", "batch_size", "num_workers", "held_out"),
    "optimizer": ("codec", "discriminator"),
    "logger": ("sinks",),
    "validation": ("bandwidth_kbps", "samples_per_group", "metrics", "speech_groups", "best"),
}

# Settings that may change when a run is resumed: its length, and what does not affect the result.
CHANGEABLE_ON_RESUME = (
    "name",
    "runs_folder",
    *("trainer.max_steps", "trainer.max_epochs", "trainer.max_minutes"),
    *("trainer.log_every", "trainer.validate_every", "trainer.checkpoint_every"),
    *("trainer.device", "trainer.compile"),
    "trainer.rollback",
    "data.num_workers",
    "validation.metrics",
    "logger",
    "checkpoints",
)


def check_keys(cfg: DictConfig) -> None:
    """Checks that every setting is used.

    Raises:
        ValueError: Names the first unknown setting and the known ones, or data.root if it is missing.
    """
    for path, known in KEYS.items():
        group = OmegaConf.select(cfg, path) if path else cfg
        if not isinstance(group, DictConfig):
            raise ValueError(f"{path} must be a mapping, got {group!r}")
        for key in group:
            if key not in known:
                setting = f"{path}.{key!s}".lstrip(".")
                raise ValueError(f"there is no setting {setting}, expected one of {', '.join(known)}")
    if OmegaConf.is_missing(cfg.data, "root"):  # otherwise the error would name data.corpus.root, which refers to it
        raise ValueError("data.root has no default: set data.root=...")


def check_folder(cfg: DictConfig) -> Path:
    """The run's folder, which is not made here.

    Raises:
        ValueError: The name is missing or invalid, or the folder holds a run with other settings.
    """
    if OmegaConf.is_missing(cfg, "name") or not str(cfg.name or "").strip():
        raise ValueError("the run has no name: set name=..., or choose an experiment, which sets it")
    folder = Path(cfg.runs_folder) / str(cfg.name)
    if folder.resolve().parent != Path(cfg.runs_folder).resolve():
        raise ValueError(f"name must be the name of a folder in {cfg.runs_folder}, got {str(cfg.name)!r}")
    check_writable(folder)
    check_unchanged(folder, folder / "config.yaml", cfg, CHANGEABLE_ON_RESUME)
    return folder


def check_writable(folder: Path) -> None:
    """Checks that the folder of a run or of an ablation can be made, or written to.

    Raises:
        ValueError: It cannot.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ValueError(
            f"the folder {readable(folder)} cannot be made: {readable(nearest)} is not a folder; "
            "choose another name= or runs_folder="
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"the folder {readable(folder)} cannot be written: {readable(nearest)} is read-only or belongs to "
            "another user; choose another runs_folder="
        )


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes the run's folder and keeps other processes from training in it. A folder that stays empty is removed.

    Raises:
        ValueError: Another process trains in it.
        OSError: The folder cannot be made.
    """
    with new_folder(folder), ExitStack() as held:
        try:
            held.enter_context(locked(folder))
        except FolderInUse as error:
            raise ValueError(
                f"another process trains in {readable(folder)}: wait until it ends, or choose another name="
            ) from error
        yield


def check_unchanged(folder: Path, path: Path, cfg: DictConfig, changeable: Collection[str]) -> None:
    """Checks that a run in `folder` has the settings of `cfg`.

    Args:
        path: The run's saved settings; if the file is missing, everything is accepted.
        changeable: Settings that may differ.

    Raises:
        ValueError: Names the first settings that differ.
    """
    if not path.exists():
        return
    differing = differences(OmegaConf.to_container(OmegaConf.load(path)), resolve(cfg), changeable)
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing[:3])}"
            f"{'; ...' if len(differing) > 3 else ''}): choose another name=, or move that folder away"
        )


def differences(before: Any, now: Any, changeable: Collection[str], path: str = "") -> list[str]:
    """A phrase for each setting that differs between two resolved configurations, except those in `changeable`."""
    if path in changeable:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        inner = (differences(before.get(k), now.get(k), changeable, f"{path}.{k}" if path else str(k)) for k in keys)
        return [difference for each in inner for difference in each]
    return [] if before == now else [f"{path} was {before}, is {now}"]


def save_config(cfg: DictConfig, path: Path) -> None:
    """Writes the resolved settings; only once the run is built, so that a failed start does not claim the folder."""
    text = OmegaConf.to_yaml(OmegaConf.create(resolve(cfg)))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # the name of a file that is not UTF-8: everything beyond ASCII is escaped
        text = yaml.safe_dump(resolve(cfg), sort_keys=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The settings as plain Python values."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
