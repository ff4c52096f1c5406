"""A neural audio codec: what ships with a trained model.

    model = codec.load()                       # the bundled model; or a run's folder, or a model file
    codes = model.encode(audio, sample_rate)   # [B, C, T] -> [B, K, F]
    audio = model.decode(codes)                # at model.config.sample_rate
    codec.encode_file("in.wav", "out.ecdc")
    codec.decode_file("out.ecdc", "back.wav")

Shape legend of the whole project: B batch, C channels, T samples, F frames, K codebooks, D latent dim, N vectors.
Audio is [B, C, T] float in about [-1, 1]; codes are int64 [B, K, F].
"""

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
