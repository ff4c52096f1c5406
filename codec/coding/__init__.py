"""Files to files: audio to .ecdc and back, in bounded memory."""

from codec.coding.decode import decode_audio, decode_file, open_encoded
from codec.coding.decode_blocks import SampleRange
from codec.coding.encode import encode_audio, encode_audio_as_encodec, encode_file
from codec.coding.prepared import PreparedCodec
from codec.coding.result import CodingResult, bitrate_kbps

__all__ = ["CodingResult", "PreparedCodec", "SampleRange", "bitrate_kbps", "decode_audio", "decode_file",
           "encode_audio", "encode_audio_as_encodec", "encode_file", "open_encoded"]  # fmt: skip
