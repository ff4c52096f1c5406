"""Jinja templates of the pages. Styles and scripts are files beside them; a page contains them and loads nothing."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["environment"]

_FOLDER = Path(__file__).parent


@cache  # a training run writes its pages many times
def environment(*folders: Path) -> Environment:
    """Templates in the given folders, then those of this package. They are compiled once."""
    return Environment(
        loader=FileSystemLoader([*folders, _FOLDER, _FOLDER / "assets"]),
        autoescape=True,  # names of losses, strategies and files, and the configuration, may hold HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
