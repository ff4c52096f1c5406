"""A codec that is ready to encode and decode files."""

import os
from pathlib import Path

import torch

from codec.bitstream.entropy.coders import EntropyCoders
from codec.bitstream.entropy.model_file import ENTROPY_NAME
from codec.model import Codec
from codec.model_file import fingerprint
from codec.models import load, model_name, model_path
from codec.network.conv import fold_weight_norm

__all__ = ["ModelSource", "PreparedCodec", "prepare"]


class PreparedCodec:
    """A codec with everything that coding a file needs.

    Attributes:
        codec: The codec.
        fingerprint: Of the codec as it was before folding; files store it.
        entropy_coders: The block coders for its codes.
        name: What messages call the codec.

    Args:
        codec: On the device to run on.
        entropy_model: File for the coding `transformer`. It need not exist.
        name: See above; None is the fingerprint.
        fold: Replaces weight norm by the weights that it computes, which is faster. It changes the codec.
    """

    def __init__(
        self, codec: Codec, entropy_model: Path | None = None, name: str | None = None, fold: bool = True
    ) -> None:
        self.fingerprint = fingerprint(codec)
        self.name = self.fingerprint if name is None else f"{name} ({self.fingerprint})"
        self.entropy_coders = EntropyCoders(codec.config, self.fingerprint, entropy_model)
        if fold:
            fold_weight_norm(codec)
        self.codec = codec


ModelSource = PreparedCodec | Codec | str | os.PathLike[str] | None


def prepare(model: ModelSource, device: torch.device | None = None, entropy_model: Path | None = None) -> PreparedCodec:
    """Makes a codec ready to code files.

    Args:
        model: A codec, which is not changed; or what `codec.models.load` takes, None for the bundled model. A prepared
            codec is returned as it is.
        device: To run a loaded model on; None for the CPU. A codec stays where it is.
        entropy_model: File for the coding `transformer`; None for entropy.safetensors beside the model's file.

    Raises:
        ModelFileError: There is no such model, or it is corrupt.
    """
    if isinstance(model, PreparedCodec):
        return model
    if isinstance(model, Codec):
        return PreparedCodec(model, entropy_model, fold=False)
    path = model_path(model)
    return PreparedCodec(load(path).to(device), entropy_model or path.with_name(ENTROPY_NAME), model_name(path))
