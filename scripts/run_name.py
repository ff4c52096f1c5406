"""Names of runs: a run that differs from its experiment, or is one of several, is named after its changes."""

import re
from collections.abc import Collection, Sequence
from pathlib import PurePath

from omegaconf import DictConfig, OmegaConf

from scripts.overrides import TEXT_KEYS, parse
from scripts.run_folder import CHANGEABLE_ON_RESUME

__all__ = ["name_run"]

_MAX_BYTES = 150  # file systems allow 255, and files beside the folder may have its name with a suffix


def name_run(cfg: DictConfig, overrides: Sequence[str], swept: Collection[str]) -> None:
    """Adds the changes of the command line to `cfg.name`: starter becomes `starter_balancer=pcgrad_seed=1`.

    Settings that may change when a run is resumed are not part of the name. With `name=` on the command line the name
    is used as it is, except for the settings in `swept`, which differ between the runs of a sweep.

    Args:
        overrides: Of this run.
        swept: Keys with several values.

    Raises:
        ValueError: The name would be too long.
    """
    values = dict(_key_and_value(override) for override in overrides)
    if OmegaConf.is_missing(cfg, "name") or not cfg.name:
        return
    if "name" in values:
        changes = {key for key in values if key in swept and key not in ("name", "runs_folder")}
    else:
        changes = {key for key in values if key in swept or not _is_changeable(key)} - {"experiment", "runs_folder"}
    name = "_".join([str(cfg.name), *(f"{key.replace('/', '.')}={values[key]}" for key in sorted(changes))])
    if len(name.encode("utf-8", "replace")) > _MAX_BYTES:
        raise ValueError(f"the {len(changes)} changes of this run make no short name: set name=...")
    cfg.name = name


def _key_and_value(override: str) -> tuple[str, str]:
    """The value as it can stand in a file name; of a path its last part."""
    parsed = parse(override)
    key, _, text = override.partition("=")
    value = parsed.value() if parsed is not None else text
    if isinstance(value, str):
        text = PurePath(value).name if key in TEXT_KEYS else value
    return key.lstrip("+"), re.sub(r"[^\w.,+-]+", "-", text).strip("-")


def _is_changeable(key: str) -> bool:
    return key.startswith("hydra") or any(key == known or key.startswith(f"{known}.") for known in CHANGEABLE_ON_RESUME)
