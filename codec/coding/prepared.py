"""A codec that is ready to encode and decode files."""

from pathlib import Path

from codec.bitstream.entropy.coders import EntropyCoders
from codec.model import Codec
from codec.model_file import fingerprint
from codec.network.conv import fold_weight_norm

__all__ = ["PreparedCodec"]


class PreparedCodec:
    """A codec with everything that coding a file needs.

    Attributes:
        codec: The codec, with folded weight norm.
        fingerprint: Of the codec as it was before folding; files store it.
        entropy_coders: The block coders for its codes.

    Args:
        codec: In eval mode, on the device to run on. It is changed: its weight norm is folded.
        entropy_model: File for the coding `transformer`. It need not exist.
    """

    def __init__(self, codec: Codec, entropy_model: Path | None = None) -> None:
        self.fingerprint = fingerprint(codec)
        self.entropy_coders = EntropyCoders(codec.config, self.fingerprint, entropy_model)
        fold_weight_norm(codec)
        self.codec = codec
