"""The codes of one file, as `codec encode` stores them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.audio import AudioFileError, AudioReader
from codec.coding import PreparedCodec
from codec.coding.encode_blocks import encode_blocks, full_block_frames
from codec.config import CodecConfig
from codec.model import EncodedSegment
from codec.tokens.card import token_dtype

__all__ = ["Failure", "Tokens", "encode_tokens", "failure", "join_segments"]


class Tokens(NamedTuple):
    """The codes of a file."""

    codes: NDArray[np.unsignedinteger]  # [K, F]
    gains: NDArray[np.float32] | None  # [S], one for each segment, if the codec normalizes
    samples: int  # of the audio at the codec's sampling rate
    notes: tuple[str, ...] = ()  # what is wrong with the audio


class Failure(NamedTuple):
    """Why a file has no codes."""

    reason: str


def failure(error: ValueError | OSError) -> Failure:
    """Why a file has no codes, without its name, which is in the column `path`."""
    if isinstance(error, AudioFileError):
        return Failure(error.reason)
    if isinstance(error, OSError) and error.strerror:
        return Failure(error.strerror)
    return Failure(" ".join(str(error).split()))


def encode_tokens(prepared: PreparedCodec, path: Path, bandwidth_kbps: float | None) -> Tokens:
    """Encodes one file, in bounded memory.

    Raises:
        AudioFileError: The file cannot be read.
        ValueError: The bandwidth is out of reach.
    """
    config = prepared.codec.config
    kbps = config.kbps_of(config.codebooks_for(bandwidth_kbps))
    reader = AudioReader(path, config.sample_rate, config.channels)
    segments = list(encode_blocks(prepared.codec, reader.blocks(), kbps, full_block_frames(config, None)))
    codes, gains = join_segments(config, segments, config.codebooks_for(kbps))
    return Tokens(codes, gains, reader.samples, tuple(reader.notes))


def join_segments(
    config: CodecConfig, segments: Sequence[EncodedSegment], num_codebooks: int
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32] | None]:
    """The codes of a file's segments or blocks one after the other, and the gains of its segments.

    Shape: codes [1, K, f] each -> [K, F], [S].
    """
    dtype = token_dtype(tuple(config.codebook_sizes)[:num_codebooks])
    parts = [segment.codes[0].cpu().numpy().astype(dtype) for segment in segments]
    codes = np.concatenate([np.zeros((num_codebooks, 0), dtype), *parts], 1)
    if not config.normalize:
        return codes, None
    # The blocks of a codec without segments are parts of one segment, whose gain they repeat.
    with_gain = segments if config.segment_seconds is not None else segments[:1]
    return codes, np.array([float(segment.gain) for segment in with_gain], np.float32)  # type: ignore[arg-type]
