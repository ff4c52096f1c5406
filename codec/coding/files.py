"""Encodes and decodes one file, for programs; the commands do the same for many files and for pipes."""

import os
from pathlib import Path

from codec.atomic_file import atomic_write
from codec.audio import AudioFile, writing_audio
from codec.coding.decode import attach_model, decode_audio, model_of, read_encoded
from codec.coding.decode_blocks import SampleRange
from codec.coding.encode import encode_audio
from codec.coding.prepared import ModelSource, prepare
from codec.coding.result import CodingResult
from codec.coding.targets import ENCODED_SUFFIX, check_audio_target, check_encoded_target, check_target

__all__ = ["decode_file", "encode_file"]

_WHOLE_SIGNAL = SampleRange()


def encode_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    model: ModelSource = None,
    *,
    bandwidth_kbps: float | None = None,
    coding: str | None = None,
    overwrite: bool = False,
) -> CodingResult:
    """Encodes an audio file of any rate and number of channels.

    Args:
        source: Any format that libsndfile reads.
        target: None is the source with the suffix .ecdc. Its folder is made.
        model: A codec, or what `codec.load` takes; None is the bundled model.
        bandwidth_kbps: Bitrate in kbit/s; None for the codec's highest.
        coding: How codes are stored, see `codec.coding.encode_audio`.
        overwrite: Whether an existing target is replaced.

    Raises:
        ValueError: The source is not valid audio (`AudioFileError`), the model is missing (`ModelFileError`), the
            bandwidth is out of range, or the target exists or has the suffix of audio.
        OSError: The target cannot be written.
    """
    source = Path(source)
    target = source.with_suffix(ENCODED_SUFFIX) if target is None else Path(target)
    check_encoded_target(target)
    check_target(target, [source], overwrite)
    with AudioFile(source) as audio:
        prepared = prepare(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary, temporary.open("wb") as file:
            return encode_audio(prepared, audio, file, bandwidth_kbps, coding=coding)


def decode_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    model: ModelSource = None,
    *,
    part: SampleRange = _WHOLE_SIGNAL,
    overwrite: bool = False,
) -> CodingResult:
    """Decodes an encoded file to audio with the codec's sampling rate and channels.

    Args:
        source: From `encode_file` or the command `codec encode`.
        target: .wav, .flac or .ogg; None is the source with the suffix .wav. Its folder is made.
        model: A codec, or what `codec.load` takes. None looks for the model whose fingerprint the file has: among the
            bundled models, then below ./runs.
        part: Samples to decode.
        overwrite: Whether an existing target is replaced.

    Raises:
        ValueError: The source is not a valid encoded file of this codec (`BitstreamError`), its model is not found,
            the target exists or has an unknown suffix, or the part is after the end of the signal.
        OSError: A file cannot be read or written.
    """
    source = Path(source)
    target = source.with_suffix(".wav") if target is None else Path(target)
    check_audio_target(target)
    check_target(target, [source], overwrite)
    with source.open("rb") as file:
        reader = read_encoded(file, str(source))
        prepared = prepare(model_of(reader) if model is None else model)
        attach_model(prepared, reader)
        config = prepared.codec.config
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing_audio(target, config.sample_rate, config.channels) as writer:
            return decode_audio(prepared, reader, writer, part)
