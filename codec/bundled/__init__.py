"""The models that ship with this package."""

from pathlib import Path

__all__ = ["DEFAULT", "bundled_models"]

DEFAULT = "general"
_FOLDER = Path(__file__).resolve().parent


def bundled_models() -> dict[str, Path]:
    """Files of the models, by their names. The default comes first."""
    found = {path.parent.name: path for path in sorted(_FOLDER.glob("*/model.safetensors"))}
    return {DEFAULT: found[DEFAULT]} | found
