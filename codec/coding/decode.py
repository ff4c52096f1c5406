"""Encoded files to audio, in bounded memory. Sources and targets may be pipes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

from codec.audio import AudioSink
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import is_encodec_format
from codec.bitstream.encodec.segments import EncodecReader, LanguageModel
from codec.bitstream.header import BitstreamError
from codec.bitstream.reader import BitstreamReader
from codec.coding.decode_blocks import EncodedReader, SampleRange, decode_blocks
from codec.coding.prepared import PreparedCodec
from codec.coding.result import CodingResult, bitrate_kbps
from codec.config import CodecConfig
from codec.models import RUNS, describe_fingerprint, find_model

__all__ = ["attach_model", "decode_audio", "model_of", "open_encoded", "read_encoded"]

_WHOLE_SIGNAL = SampleRange()


def read_encoded(file: BinaryIO, name: str) -> EncodedReader:
    """Reads the header of an encoded file, also in the format of the encodec package.

    Args:
        file: At its start; may be a pipe.
        name: Name of the file in messages.

    Raises:
        BitstreamError: The file is not a valid encoded file.
    """
    source = ByteSource(file)
    return EncodecReader(source, name) if is_encodec_format(source.peek(5)) else BitstreamReader(source, name)


def model_of(reader: EncodedReader) -> Path:
    """The file of the model that an encoded file was made with, if it is bundled or below ./runs.

    Raises:
        BitstreamError: The model is not found, or the file does not identify it.
    """
    if isinstance(reader, EncodecReader):
        raise BitstreamError(
            f"{reader.name} has the format of the encodec package, which does not identify the weights of its model "
            f"{reader.header.model}: give the model (--model)"
        )
    path = find_model(reader.header.model)
    if path is None:
        raise BitstreamError(
            f"{reader.name} was encoded with the model {reader.header.model}, which is neither bundled nor below "
            f"{RUNS}/: give the model (--model)"
        )
    return path


def attach_model(prepared: PreparedCodec, reader: EncodedReader, lm: LanguageModel | None = None) -> None:
    """Makes a reader ready to decode with a codec.

    Args:
        prepared: The codec.
        reader: From `read_encoded`.
        lm: The encodec package's language model, for files compressed with it.

    Raises:
        BitstreamError: The file was encoded with another codec, or needs `lm`.
        EntropyFileError: The file needs an entropy model that is missing or cannot be used.
    """
    if isinstance(reader, EncodecReader):
        reader.language_model = lm
        reader.check_model(prepared.codec.config)
        return
    if reader.header.model != prepared.fingerprint:
        raise BitstreamError(
            f"{reader.name} was encoded with {describe_fingerprint(reader.header.model)}, "
            f"but the model given is {prepared.name}"
        )
    _check_header(reader, prepared.codec.config)
    reader.coder = prepared.entropy_coders.block_coder(reader.header, reader.name)


def open_encoded(prepared: PreparedCodec, file: BinaryIO, name: str, lm: LanguageModel | None = None) -> EncodedReader:
    """Reads the header of an encoded file of a codec: `read_encoded` and `attach_model`."""
    reader = read_encoded(file, name)
    attach_model(prepared, reader, lm)
    return reader


def decode_audio(
    prepared: PreparedCodec,
    reader: EncodedReader,
    sink: AudioSink,
    part: SampleRange = _WHOLE_SIGNAL,
    whole_frames: bool = False,
    progress: Callable[[int], None] = lambda bytes_read: None,
) -> CodingResult:
    """Decodes an encoded file to an audio file or pipe.

    Args:
        prepared: The codec.
        reader: From `open_encoded`.
        sink: Receives the audio.
        part: Samples to decode.
        whole_frames: Write every frame as soon as it is decoded; then the audio ends with a whole frame. Otherwise the
            last frame is cut to the length of the signal. It is only known at the end of the file which frame is the
            last, so each frame waits for the next.
        progress: Called for every piece of audio with the number of bytes read so far.

    Raises:
        ValueError: The file is corrupt (`BitstreamError`), or the part is after the end of the signal.
        OSError: A file cannot be read or written.
    """
    start, config = time.perf_counter(), prepared.codec.config
    held_back = 0 if whole_frames else config.hop_samples
    pending, position = torch.zeros(config.channels, 0), 0  # decoded, not written; number of its first sample
    encoded_bytes, details, notes = 0.0, list[str](), list[str]()
    for piece in decode_blocks(prepared.codec, reader, part):
        position = piece.start - pending.shape[-1]
        pending = torch.cat([pending, piece.audio[0].cpu()], -1)
        encoded_bytes += piece.encoded_bytes
        ready = max(0, pending.shape[-1] - held_back)
        sink.write(part.cut(pending[:, :ready], position))
        pending, position = pending[:, ready:], position + ready
        progress(reader.bytes_read)
        if part.stop is not None and position >= part.stop:
            break
    else:
        remaining = _remaining_samples(reader, config, part, position, pending.shape[-1])
        sink.write(part.cut(pending[:, : max(0, remaining)], position))
        if remaining < 0:
            details.append(f"{-remaining} samples more than were encoded")
    if sink.clipped:
        notes.append(f"{sink.clipped} samples of the decoded audio are above full scale and were clipped.")
    seconds = sink.samples / config.sample_rate
    size = reader.bytes_read if part == _WHOLE_SIGNAL else round(encoded_bytes)
    elapsed_seconds = time.perf_counter() - start
    return CodingResult(seconds, size, bitrate_kbps(size, seconds), elapsed_seconds, details, notes)


def _remaining_samples(
    reader: EncodedReader, config: CodecConfig, part: SampleRange, position: int, pending: int
) -> int:
    """Samples to write from `position` on, of `pending` decoded ones. Negative if too many were written."""
    samples = reader.samples
    if samples is None:  # decoding stopped before the end of the file
        assert part.stop is not None
        return part.stop - position
    if part.start >= samples > 0 or part.start > samples:
        raise ValueError(
            f"{reader.name} is {samples / config.sample_rate:.3f} s long, but the start is at "
            f"{part.start / config.sample_rate:.3f} s"
        )
    if not position + pending - config.hop_samples < samples <= position + pending:
        raise reader.corrupt(f"its codes decode to {position + pending} samples, but it announces {samples}")
    return samples - position


def _check_header(reader: BitstreamReader, config: CodecConfig) -> None:
    """Raises `BitstreamError` if the header contradicts the model, although the fingerprint is the model's."""
    header = reader.header
    for name, expected in (
        ("sample_rate", config.sample_rate),
        ("channels", config.channels),
        ("bits_per_code", config.bits_per_code),
        ("hop_samples", config.hop_samples),
        ("has_gain", config.normalize),
    ):
        if getattr(header, name) != expected:
            raise reader.corrupt(f"its {name} is {getattr(header, name)}, but the model has {expected}")
    if header.num_codebooks > config.num_codebooks:
        raise reader.corrupt(f"it has {header.num_codebooks} codebooks, but the model has {config.num_codebooks}")
