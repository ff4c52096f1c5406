"""Audio to encoded files, in bounded memory.

A codec that streams holds a few seconds of audio, and one with segments holds one segment. Other codecs hold all of it.
Sources and targets may be pipes.
"""

import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from torch import Tensor

from codec.audio import AudioReader, AudioSource
from codec.bitstream.encodec.header import EncodecHeader, package_model_name
from codec.bitstream.encodec.segments import PIECE_FRAMES, LanguageModel, segment_bytes
from codec.bitstream.header import BitstreamHeader
from codec.bitstream.layout import Block
from codec.bitstream.writer import BitstreamWriter
from codec.coding.encode_blocks import encode_blocks, full_block_frames
from codec.coding.prepared import PreparedCodec
from codec.coding.result import CodingResult, bitrate_kbps

__all__ = ["encode_audio", "encode_audio_as_encodec", "encode_codes"]


def encode_audio(
    prepared: PreparedCodec,
    source: AudioSource,
    file: BinaryIO,
    bandwidth_kbps: float | None,
    block_frames: int | None = None,
    coding: str | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> CodingResult:
    """Encodes audio to a file or pipe. Equal audio gives equal files, however it arrives.

    Args:
        prepared: The codec.
        source: Read to its end and closed.
        file: Flushed after every block.
        bandwidth_kbps: As in `Codec.encode`.
        block_frames: Frames stored together; a block is written when its last frame is complete. None for the default.
        coding: `fixed`, `adaptive` or `transformer`. None chooses `transformer` if its model exists, otherwise
            `adaptive`; with `block_frames` it chooses `fixed`.
        progress: Called after every block with the number of samples so far, at the codec's rate.

    Raises:
        ValueError: The audio is corrupt (`AudioFileError`), the bandwidth is out of range, the codec does not stream
            but `block_frames` is given, or the entropy model cannot be used.
        OSError: The file cannot be written.
    """
    start = time.perf_counter()
    codec, config = prepared.codec, prepared.codec.config
    full_frames = full_block_frames(config, block_frames)
    storage = prepared.entropy_coders.storage_fields(coding, full_frames, prefer_fixed=block_frames is not None)
    reader = AudioReader(source, config.sample_rate, config.channels)
    header = BitstreamHeader(
        model=prepared.fingerprint,
        sample_rate=config.sample_rate,
        channels=config.channels,
        num_codebooks=config.codebooks_for(bandwidth_kbps),
        bits_per_code=config.bits_per_code,
        hop_samples=config.hop_samples,
        has_gain=config.normalize,
        source_sample_rate=reader.source_sample_rate,
        source_channels=reader.source_channels,
        **storage._asdict(),
    )
    writer = BitstreamWriter(file, header, prepared.entropy_coders.block_coder(header, "the encoded file"))
    for segment in encode_blocks(codec, reader.blocks(), bandwidth_kbps, full_frames):
        gain = None if segment.gain is None else float(segment.gain)
        writer.write(Block(segment.codes[0].cpu().numpy(), gain))
        file.flush()
        progress(reader.samples)
    writer.finish(reader.samples)
    file.flush()
    details = reader.conversions()
    if block_frames is not None:
        overhead = writer.file_bytes - writer.code_bytes
        details.append(f"{overhead} of the bytes are headers and checksums of {writer.blocks} blocks")
    seconds = reader.samples / config.sample_rate
    kbps = bitrate_kbps(writer.file_bytes, seconds)
    elapsed_seconds = time.perf_counter() - start
    return CodingResult(seconds, writer.file_bytes, kbps, elapsed_seconds, details, reader.notes)


def encode_audio_as_encodec(
    prepared: PreparedCodec, source: AudioSource, file: BinaryIO, bandwidth_kbps: float | None, lm: LanguageModel | None
) -> CodingResult:
    """Encodes audio to a file or pipe in the format of the encodec package.

    This format stores the length of the signal at its start. So all encoded segments stay in memory until the audio has
    been read.

    Args:
        prepared: The codec, of one of the package's two architectures.
        source: Read to its end and closed.
        file: Written once, at the end.
        bandwidth_kbps: As in `Codec.encode`.
        lm: Language model to compress the codes with, or None.

    Raises:
        ValueError: The codec has another architecture, the audio is corrupt (`AudioFileError`), or the bandwidth is out
            of range.
        OSError: The file cannot be written.
    """
    start, config = time.perf_counter(), prepared.codec.config
    name, num_codebooks = package_model_name(config), config.codebooks_for(bandwidth_kbps)
    reader = AudioReader(source, config.sample_rate, config.channels)
    blocks = encode_blocks(prepared.codec, reader.blocks(), bandwidth_kbps, PIECE_FRAMES)
    if config.segment_seconds is None:
        body = [segment_bytes((block.codes[0] for block in blocks), None, lm)]
    else:
        body = [segment_bytes([block.codes[0]], float(block.gain), lm) for block in blocks]  # type: ignore[arg-type]
    header = EncodecHeader(name, reader.samples, num_codebooks, lm is not None)
    data = b"".join([header.to_bytes(), *body])
    file.write(data)
    file.flush()
    notes = list(reader.notes)
    if not header.package_can_read():
        notes.append(f"The encodec package itself cannot read files of {reader.samples} samples.")
    seconds = reader.samples / config.sample_rate
    kbps, elapsed_seconds = bitrate_kbps(len(data), seconds), time.perf_counter() - start
    return CodingResult(seconds, len(data), kbps, elapsed_seconds, reader.conversions(), notes)


def encode_codes(prepared: PreparedCodec, source: AudioSource, bandwidth_kbps: float) -> Iterator[Tensor]:
    """Yields the codes of audio, one block or segment at a time, without writing a file.

    Shape: -> [K, F] each, on the CPU.

    Raises:
        ValueError: As in `encode_audio`.
    """
    config = prepared.codec.config
    reader = AudioReader(source, config.sample_rate, config.channels)
    for segment in encode_blocks(prepared.codec, reader.blocks(), bandwidth_kbps, full_block_frames(config, None)):
        yield segment.codes[0].cpu()
