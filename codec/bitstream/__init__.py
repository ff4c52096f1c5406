"""The .ecdc file format: layout, header, reader, writer, entropy coding, and the format of the encodec package."""

from codec.bitstream.header import BitstreamError, BitstreamHeader
from codec.bitstream.layout import Block
from codec.bitstream.reader import BitstreamReader
from codec.bitstream.writer import BitstreamWriter

__all__ = ["BitstreamError", "BitstreamHeader", "BitstreamReader", "BitstreamWriter", "Block"]
