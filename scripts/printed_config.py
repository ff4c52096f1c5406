"""A configuration as YAML with the comments of the files that it was composed from."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from scripts.settings_table import settings_of

__all__ = ["commented_yaml"]

_WIDTH = 120


def commented_yaml(cfg: DictConfig, config_name: str, choices: Mapping[str, str | None], folders: Sequence[str]) -> str:
    """YAML that loads as `cfg` again, with a comment behind each setting that has one.

    Args:
        config_name: Main file, without its suffix.
        choices: Group -> chosen option, as Hydra reports them.
        folders: Where the files are.
    """
    comments: dict[str, str] = {}
    for folder in map(Path, folders):
        for group, option in choices.items():
            name, _, package = group.partition("@")
            files = sorted((folder / name).glob("*.yaml"), key=lambda path: (path.stem == option, path.stem))
            for path in files if name != "experiment" else ():
                # The chosen option comes last. Another one may have the comment of a setting that they share.
                comments |= _comments(path, package or name.replace("/", "."), chosen=path.stem == option)
        comments |= _comments(folder / f"{config_name}.yaml", "", chosen=True)
    return "".join(f"{line}\n" for key, line in _lines(cfg) for line in _commented(line, comments.get(key, "")))


def _comments(path: Path, package: str, chosen: bool) -> dict[str, str]:
    """The comments of a file; of an option that is not chosen only those of settings in its own package."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    in_place = "# @package" in text
    if in_place and not chosen:
        return {}
    start = f"{package}." if package and not in_place else ""
    return {f"{start}{setting.key}": setting.meaning for setting in settings_of(text) if setting.meaning}


def _commented(line: str, comment: str) -> list[str]:
    """A long comment stands above its line."""
    if not comment:
        return [line]
    if len(line) + len(comment) + 3 <= _WIDTH:
        return [f"{line} # {comment}"]
    indent = " " * (len(line) - len(line.lstrip()))
    return [*textwrap.wrap(comment, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "), line]


def _lines(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """The key and the YAML line of each setting; a long list has further lines without a key."""

    def walk(node: Mapping[Any, Any], path: str, indent: str) -> Iterator[tuple[str, str]]:
        for key, value in node.items():
            name = f"{path}.{key}" if path else str(key)
            if isinstance(value, dict) and value:
                yield name, f"{indent}{_scalar(key)}:"
                yield from walk(value, name, f"{indent}  ")
            elif isinstance(value, list) and len(_scalar(value)) > _WIDTH // 2:
                yield name, f"{indent}{_scalar(key)}:"
                yield from (("", f"{indent}- {_scalar(item)}") for item in value)
            else:
                yield name, f"{indent}{_scalar(key)}: {_scalar(value)}"

    yield from walk(OmegaConf.to_container(cfg), "", "")  # type: ignore[arg-type]


def _scalar(value: Any) -> str:
    """YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 30, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()
