"""Hydra reads each file of configs/ once per process, not once per composition, which is a third of its time."""

from copy import deepcopy
from pathlib import Path

from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult

__all__ = ["read_once"]

_CONFIGS = str(Path(__file__).resolve().parents[2] / "configs")
_KEPT: dict[tuple[str, ...], ConfigResult | None] = {}
_LOAD = ConfigRepository.load_config


def _load(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Files of other folders are read each time, because tests change them."""
    sources = repository.sources
    if any(source.scheme() == "file" and source.path != _CONFIGS for source in sources):
        return _LOAD(repository, config_path)
    key = (config_path, *(source.full_path() for source in sources))
    if key not in _KEPT:
        _KEPT[key] = _LOAD(repository, config_path)
    return deepcopy(_KEPT[key])


def read_once() -> None:
    setattr(ConfigRepository, "load_config", _load)  # noqa: B010 (mypy takes methods for constants)
