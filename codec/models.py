"""Which model: a bundled one by name, a run's folder, a file, or the one whose fingerprint an encoded file has."""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from codec.bundled import DEFAULT, bundled_models
from codec.checkpoint_file import CheckpointError, read_averaged_codec
from codec.model import Codec
from codec.model_file import MODEL_NAME, ModelFileError, load_model, stored_fingerprint

__all__ = ["BUNDLED", "RUNS", "describe_fingerprint", "find_model", "load", "model_name", "model_path"]

RUNS = Path("runs")
BUNDLED = "bundled"  # stands for the default bundled model


def model_path(source: str | os.PathLike[str] | None = None) -> Path:
    """The file of a model.

    Args:
        source: Name of a bundled model, `bundled` for the default one, a run's folder, a model file, or a training
            checkpoint (.pt). A name wins over a folder of that name, which `./NAME` stands for. None is `bundled`.

    Raises:
        ModelFileError: There is no such model.
    """
    bundled = bundled_models()
    text = BUNDLED if source is None else os.fspath(source)
    if text == BUNDLED:
        return bundled[DEFAULT]
    if text in bundled:
        return bundled[text]
    path = Path(text)
    if path.is_file():
        return path
    if (path / MODEL_NAME).is_file():
        return path / MODEL_NAME
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder without {MODEL_NAME}, which training writes at its first validation")
    known = [BUNDLED, *bundled, *(str(model_name(found)) for found in _run_models())]
    close = difflib.get_close_matches(text.rstrip("/"), known, 1)
    hint = f"did you mean {close[0]}?" if close else f"expected a run's folder, a file, or {', '.join(known[:9])}"
    raise ModelFileError(f"no model at {text}: {hint}")


def load(source: str | os.PathLike[str] | None = None, parts: Mapping[str, type] | None = None) -> Codec:
    """Loads a trained codec, in eval mode, in float32, on the CPU.

    From a training checkpoint it reads the codec that the run would have saved at that step.

    Args:
        source: As in `model_path`; None is the bundled model.
        parts: Classes from outside this project that the file may name, see `make_codec`.

    Raises:
        ModelFileError: There is no such model, or it is corrupt.
    """
    path = model_path(source)
    if path.suffix != ".pt":
        return load_model(path, parts)
    try:
        return read_averaged_codec(path)
    except CheckpointError as error:
        raise ModelFileError(str(error)) from error


def find_model(fingerprint: str) -> Path | None:
    """The bundled model with this fingerprint, or the first one below ./runs; None if there is none."""
    for path in [*bundled_models().values(), *_run_models()]:
        if stored_fingerprint(path) == fingerprint:
            return path
    return None


def describe_fingerprint(fingerprint: str) -> str:
    """The fingerprint with the name of its model, if the model is found."""
    path = find_model(fingerprint)
    return fingerprint if path is None else f"{model_name(path)} ({fingerprint})"


def model_name(path: Path) -> str:
    """What messages call a model file: its name if it is bundled, the run's folder, or the file."""
    for name, bundled in bundled_models().items():
        if path == bundled:
            return f"the bundled model {name}"
    return str(path.parent if path.name == MODEL_NAME and path.parent.name else path)


def _run_models() -> Iterator[Path]:
    return iter(sorted(path for path in RUNS.rglob(MODEL_NAME) if path.is_file()))
