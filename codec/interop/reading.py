"""Reads models of other packages; the contents of a file tell which package wrote it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from codec.interop.audiocraft import read_checkpoint, settings_of_audiocraft, state_of_checkpoint
from codec.interop.dac import is_dac
from codec.interop.encodec import settings_of_encodec
from codec.interop.transformers import read_transformers
from codec.interop.weights import ForeignModelError, codec_with, translated
from codec.model import Codec

__all__ = ["ForeignModel", "read_foreign"]

_AUDIOCRAFT_FILE = "compression_state_dict.bin"


class ForeignModel(NamedTuple):
    """A model of another package, as a codec of this project."""

    codec: Codec
    origin: str  # package and kind of the model


def read_foreign(source: Path) -> ForeignModel:
    """Reads a model of encodec, transformers or audiocraft.

    Args:
        source: A state dict of the encodec package (.th, .pt); a folder that transformers wrote; or a compression
            checkpoint of audiocraft, exported (compression_state_dict.bin, or a folder that holds it) or of its
            trainer (checkpoint.th).

    Raises:
        ForeignModelError: It is none of these, is corrupt, or is a model that this project cannot express; the
            message names the setting.
    """
    if source.is_dir() and (source / "config.json").is_file():
        codec = read_transformers(source)
        kind = "DacModel" if is_dac(codec) else "EncodecModel"
        return ForeignModel(codec, f"transformers' {kind}")
    path = source / _AUDIOCRAFT_FILE if source.is_dir() else source
    if not path.is_file():
        expected = "a file, or a folder with config.json or compression_state_dict.bin"
        raise ForeignModelError(f"expected {expected}, got {source}")
    if path.suffix == ".safetensors":
        raise ForeignModelError(
            f"{path} does not state its architecture: give the folder with its config.json "
            "(a model of this project needs no import)"
        )
    try:
        return _read_checkpoint(path)
    except ForeignModelError:
        raise
    except (ValueError, TypeError) as error:
        raise ForeignModelError(f"{path}: {error}") from error


def _read_checkpoint(path: Path) -> ForeignModel:
    checkpoint = read_checkpoint(path)
    try:
        if isinstance(checkpoint, Mapping) and checkpoint.keys() & {"best_state", "xp.cfg", "pretrained"}:
            state, settings = state_of_checkpoint(checkpoint)
            weights = translated(state)
            return ForeignModel(codec_with(weights, settings_of_audiocraft(settings)), "audiocraft's EnCodec")
        weights = translated(checkpoint)
        return ForeignModel(codec_with(weights, settings_of_encodec(weights)), "encodec's state dict")
    except ForeignModelError as error:
        raise ForeignModelError(f"{path}: {error}") from error
