"""One checkpoint file of a training run: a `torch.save` archive that holds only tensors and primitives.

The archive is a ZIP file. `torch.load` does not verify the checksums of a ZIP file, so they are verified first.
"""

import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from codec.model import Codec
from codec.model_file import make_codec

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "averaged_weights",
    "read_averaged_codec",
    "read_checkpoint",
    "read_score",
    "write_checkpoint",
]

_PLAIN = {Tensor, nn.Parameter, bool, int, float, str, NoneType}


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read."""


class Checkpoint(NamedTuple):
    """The state of a run after `step` optimizer steps: nested containers of tensors and primitives."""

    step: int
    state: dict[str, Any]
    score: float | None = None  # on held-out clips, lower is better


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint. Its state is checked first, so that it can be read again.

    Raises:
        OSError: The file cannot be written.
        TypeError: The state holds something else than tensors and primitives, for example a NumPy number, which
            `torch.load(weights_only=True)` would refuse.
    """
    _check_state(checkpoint.state, "state")
    with open(path, "wb") as file:
        try:
            torch.save(checkpoint._asdict(), file)
        except RuntimeError as error:  # torch raises it in place of the OSError
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _check_state(value: Any, path: str) -> None:
    kind = type(value)  # exactly: a subclass of dict or float is stored by its name
    if kind in (dict, OrderedDict):
        for key, each in value.items():
            _check_state(key, f"a key of {path}")
            _check_state(each, f"{path}.{key}")
    elif kind in (list, tuple):
        for index, each in enumerate(value):
            _check_state(each, f"{path}.{index}")
    elif kind not in _PLAIN:
        raise TypeError(
            f"the training state holds {kind.__module__}.{kind.__qualname__} in {path}, expected only tensors, "
            "numbers, strings, None, and dicts, lists and tuples of them"
        )


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint; its tensors are on the CPU.

    Raises:
        CheckpointError: The file is missing, corrupt, unsafe to load, or not a checkpoint.
    """
    return _read(path, mmap=False)


def read_score(path: Path) -> float | None:
    """Reads only the score of a checkpoint. Raises the errors of `read_checkpoint`."""
    return _read(path, mmap=True).score


def read_averaged_codec(path: Path) -> Codec:
    """The codec that a run validates and exports: averaged weights and current codebooks. In eval mode, on the CPU.

    Raises:
        CheckpointError: The file is corrupt, or is not the checkpoint of a codec.
    """
    state = read_checkpoint(path).state
    try:
        codec = make_codec(state["codec_config"])
        codebooks = {name: value for name, value in state["codec"].items() if name.startswith("quantizer.")}
        codec.load_state_dict(averaged_weights(state) | codebooks)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()[:200]
        raise CheckpointError(f"{path} does not hold the codec of a run: {reason}") from error
    return codec.eval()


def averaged_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights in the state of a run, by their names in the codec."""
    return {name.removeprefix("module."): value for name, value in state["average"].items() if name != "n_averaged"}


def _read(path: Path, mmap: bool) -> Checkpoint:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not read a record that is marked as a folder, and returns uninitialized memory.
            marked = [record.filename for record in archive.infolist() if record.external_attr]
            corrupt = marked[0] if marked else archive.testzip()
        content = None if corrupt else torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a corrupt or malicious file can raise any exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read: {reason}") from error
    if corrupt:
        raise CheckpointError(f"{path} is corrupt: the checksum of {corrupt} does not match")
    if content is None or not _is_checkpoint(content):
        raise CheckpointError(f"{path} is not a checkpoint of a training run")
    return Checkpoint(**content)


def _is_checkpoint(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and content.keys() == set(Checkpoint._fields)
        and isinstance(content["step"], int)
        and isinstance(content["state"], dict)
        and isinstance(content["score"], float | None)
    )
