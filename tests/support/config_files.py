"""Hydra combines the same files of configs/ once per process, not once per composition, which is most of its time.

What a composition has to do each time, as in a process of its own: it parses the overrides and applies those of single
settings. A choice of options that fails is not kept.
"""

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

__all__ = ["PATCHES", "combine_once"]

_CONFIGS = str(Path(__file__).resolve().parents[2] / "configs")
_LOAD, _LIST = ConfigRepository.load_config, config_loader_impl.create_defaults_list
_MAP = defaults_list._create_interpolation_map
_COMBINE = ConfigLoaderImpl._compose_config_from_defaults_list
_LOADED: dict[Any, bytes] = {}
_LISTED: dict[Any, DefaultsList] = {}
_COMBINED: dict[Any, bytes] = {}


def _sources(repository: IConfigRepository) -> tuple[str, ...] | None:
    """None with other folders than configs/. Their files are read each time, because tests change them."""
    sources = repository.get_sources()
    if any(source.scheme() == "file" and source.path != _CONFIGS for source in sources):
        return None
    return tuple(source.full_path() for source in sources)


def _load(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    sources = _sources(repository)
    if sources is None:
        return _LOAD(repository, config_path)
    key = (config_path, sources)
    if key not in _LOADED:
        _LOADED[key] = pickle.dumps(_LOAD(repository, config_path))
    loaded: ConfigResult | None = pickle.loads(_LOADED[key])
    return loaded


def _list(
    repo: IConfigRepository,
    config_name: str | None,
    overrides_list: list[Override],
    prepend_hydra: bool,
    skip_missing: bool,
) -> DefaultsList:
    """The files in their order. It depends on the overrides that choose options."""
    sources = _sources(repo)
    if sources is None:
        return _LIST(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    overrides = Overrides(repo, overrides_list)
    settings = {id(override) for override in overrides.config_overrides}
    chosen = tuple(
        override.input_line
        for override in overrides_list
        if id(override) not in settings and not override.is_sweep_override()
    )
    key = (sources, config_name, chosen, prepend_hydra, skip_missing)
    if key not in _LISTED:
        _LISTED[key] = _LIST(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    kept = _LISTED[key]
    overrides.known_choices = dict(kept.overrides.known_choices)
    overrides.known_choices_per_group = deepcopy(kept.overrides.known_choices_per_group)
    return DefaultsList(list(kept.defaults), kept.defaults_tree, overrides.config_overrides, overrides)


def _map(overrides: Overrides, options: list[Any], self_added: bool) -> DictConfig:
    """What an interpolation between the options of a file may use. It takes a quarter of the time to make."""
    if any("${" in f"{getattr(option, 'value', '')}{getattr(option, 'path', '')}" for option in options):
        return _MAP(overrides, options, self_added)
    return OmegaConf.create()


def _combine(loader: ConfigLoaderImpl, defaults: list[Any], repo: IConfigRepository) -> DictConfig:
    sources = _sources(repo)
    if sources is None:
        return _COMBINE(loader, defaults, repo)
    key = (sources, repr(defaults))
    if key not in _COMBINED:
        _COMBINED[key] = pickle.dumps(_COMBINE(loader, defaults, repo))
    combined: DictConfig = pickle.loads(_COMBINED[key])
    return combined


# What is replaced by what, and the original.
PATCHES: list[tuple[Any, str, Any, Any]] = [
    (ConfigRepository, "load_config", _load, _LOAD),
    (config_loader_impl, "create_defaults_list", _list, _LIST),
    (defaults_list, "_create_interpolation_map", _map, _MAP),
    (ConfigLoaderImpl, "_compose_config_from_defaults_list", _combine, _COMBINE),
]


def combine_once() -> None:
    for owner, name, replacement, _ in PATCHES:
        setattr(owner, name, replacement)
