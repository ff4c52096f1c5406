"""The names of `import codec`."""

from codec.coding import CodingResult, decode_file, encode_file
from codec.config import CodecConfig
from codec.model import Codec, CodecOutput, EncodedSegment
from codec.model_file import ModelFileError, fingerprint, make_codec
from codec.model_file import save_model as save
from codec.models import load
from codec.network import SEANet
from codec.quantization import ResidualVectorQuantizer

__all__ = [
    "Codec",
    "CodecConfig",
    "CodecOutput",
    "CodingResult",
    "EncodedSegment",
    "ModelFileError",
    "ResidualVectorQuantizer",
    "SEANet",
    "decode_file",
    "encode_file",
    "fingerprint",
    "load",
    "make_codec",
    "save",
]
