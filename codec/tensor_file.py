"""Reads safetensors files."""

from pathlib import Path
from typing import Any

from safetensors import safe_open

__all__ = ["read_tensors"]


def read_tensors(path: Path, framework: str = "pt") -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the tensors of a file.

    Args:
        framework: `pt` for tensors of torch, `numpy` for arrays.

    Raises:
        SafetensorError: The file is corrupt.
        OSError: It is missing or may not be read; `filename` is its path.
    """
    path.open("rb").close()  # safetensors would say that there is no file if it may not be read
    with safe_open(path, framework=framework) as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
