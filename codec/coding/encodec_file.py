"""Audio to a file of the encodec package."""

from typing import BinaryIO

from codec.audio.reader import AudioReader, AudioSource
from codec.bitstream.encodec.format import PIECE_FRAMES, LanguageModel, segment_bytes
from codec.bitstream.encodec.header import EncodecHeader, official_name
from codec.coding.encode import encode_blocks
from codec.coding.file_codec import FileCodec, FileResult, bitrate_kbps

__all__ = ["encode_as_encodec"]


def encode_as_encodec(
    coder: FileCodec, source: AudioSource, file: BinaryIO, bandwidth_kbps: float, lm: LanguageModel | None
) -> FileResult:
    """Audio to a file in the encodec package's format; either may be a pipe.

    The length of the signal stands at the start of such a file, so its segments are held, in the bytes that they will
    have, until the audio has been read.

    Args:
        source: Read to its end and closed.
        file: Written to once.
        lm: The language model to compress with, if any.

    Raises:
        ValueError: The codec's architecture is neither of the package's two, the audio is damaged (`AudioFileError`),
            or the bandwidth is out of reach.
        OSError: The file cannot be written.
    """
    config = coder.codec.config
    name, books = official_name(config), config.codebooks_for(bandwidth_kbps)
    reader = AudioReader(source, config.sample_rate, config.channels)
    pieces = encode_blocks(coder.codec, reader.blocks(), bandwidth_kbps, PIECE_FRAMES)
    if config.segment_seconds is None:
        body = [segment_bytes((piece.codes[0] for piece in pieces), None, lm)]
    else:
        body = [segment_bytes([piece.codes[0]], float(piece.scale), lm) for piece in pieces]  # type: ignore[arg-type]
    header = EncodecHeader(name, reader.samples, books, lm is not None)
    data = b"".join([header.to_bytes(), *body])
    file.write(data)
    file.flush()
    shortfall = reader.shortfall()
    notes = reader.conversions() + ([] if shortfall is None else [shortfall])
    if not header.package_reads():
        notes.append(f"the encodec package itself fails on files of {reader.samples} samples")
    seconds = reader.samples / config.sample_rate
    return FileResult(seconds, len(data), bitrate_kbps(len(data), seconds), notes)
