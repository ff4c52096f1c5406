"""A neural audio codec: what ships with a trained model.

Shape legend of the whole project: B batch, C channels, T samples, F frames, K codebooks, D latent dim, N vectors.
Audio is [B, C, T] float in about [-1, 1]; codes are int64 [B, K, F].
"""

from codec.config import CodecConfig
from codec.model import Codec, CodecOutput, EncodedSegment
from codec.model_file import ModelFileError, fingerprint, make_codec
from codec.model_file import load_model as load
from codec.model_file import save_model as save
from codec.network import SEANet
from codec.quantization import ResidualVectorQuantizer

__all__ = [
    "Codec",
    "CodecConfig",
    "CodecOutput",
    "EncodedSegment",
    "ModelFileError",
    "ResidualVectorQuantizer",
    "SEANet",
    "fingerprint",
    "load",
    "make_codec",
    "save",
]
