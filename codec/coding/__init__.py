"""Files to files: audio to .ecdc and back, in bounded memory."""

from codec.coding.decode import attach_model, decode_audio, model_of, open_encoded, read_encoded
from codec.coding.decode_blocks import EncodedReader, SampleRange
from codec.coding.encode import encode_audio, encode_audio_as_encodec
from codec.coding.files import decode_file, encode_file
from codec.coding.prepared import ModelSource, PreparedCodec, prepare
from codec.coding.result import CodingResult, bitrate_kbps

__all__ = ["CodingResult", "EncodedReader", "ModelSource", "PreparedCodec", "SampleRange", "attach_model",
           "bitrate_kbps", "decode_audio", "decode_file", "encode_audio", "encode_audio_as_encodec", "encode_file",
           "model_of", "open_encoded", "prepare", "read_encoded"]  # fmt: skip
