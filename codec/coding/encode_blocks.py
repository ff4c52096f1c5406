"""Audio to codes, in blocks of bounded memory."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from codec.bitstream.layout import MAX_BLOCK_FRAMES
from codec.coding.segments import SegmentEncoder
from codec.config import CodecConfig
from codec.model import Codec, EncodedSegment
from codec.streaming import StreamingEncoder

__all__ = ["encode_blocks", "full_block_frames"]

_STREAM_BLOCK_FRAMES = 512  # 7 s of the 24 kHz model: 10 bytes a block are 0.8 % at 1.5 kbps
_STEP_SAMPLES = 1 << 15  # passed to the network at a time
_T = TypeVar("_T")


def full_block_frames(config: CodecConfig, block_frames: int | None) -> int:
    """Frames of a full block.

    Args:
        block_frames: The user's choice; None for the default (a segment, or some seconds of a codec without segments).

    Raises:
        ValueError: The number is out of range, or was chosen for a codec that cannot stream.
    """
    if block_frames is not None and not config.can_stream:
        raise ValueError(f"this model does not stream: expected no number of frames per block, got {block_frames}")
    if config.segment_seconds is None:
        frames = _STREAM_BLOCK_FRAMES if block_frames is None else block_frames
    else:
        frames = math.ceil(config.segment_samples_or(0) / config.hop_samples)
    if not 1 <= frames <= MAX_BLOCK_FRAMES:
        raise ValueError(f"a block must have 1 to {MAX_BLOCK_FRAMES} frames, got {frames}")
    return frames


def encode_blocks(
    codec: Codec, audio: Iterable[Tensor], bandwidth_kbps: float | None, block_frames: int
) -> Iterator[EncodedSegment]:
    """Yields the codes of one block at a time.

    For a codec with segments, every segment is a block. For the others, all blocks but the last are full. A codec that
    encodes all audio as one segment repeats the gain of the segment in each block.

    Args:
        codec: In eval mode.
        audio: Pieces of any length. They are regrouped, so the codes do not depend on how the audio arrives.
        bandwidth_kbps: As in `Codec.encode`.
        block_frames: From `full_block_frames`.

    Shape: audio [C, t] each -> codes [1, K, F] each.
    """
    device = next(codec.parameters()).device
    step_samples = min(_STEP_SAMPLES, block_frames * codec.config.hop_samples)
    steps = (step[None].to(device) for step in _regroup(audio, step_samples))
    if codec.config.can_stream:
        stream = StreamingEncoder(codec, bandwidth_kbps)
        codes = _then(map(stream.push, steps), stream.flush)
        yield from (EncodedSegment(block, None) for block in _regroup(codes, block_frames))
        return
    encoder = SegmentEncoder(codec, bandwidth_kbps)
    for segments in _then(map(encoder.push, steps), encoder.flush):
        for segment in segments:
            for block in segment.codes.split(block_frames, -1):
                yield EncodedSegment(block, segment.gain)


def _then(items: Iterable[_T], last: Callable[[], _T]) -> Iterator[_T]:
    """Yields `items`, then the result of `last`, which is called when they are exhausted."""
    yield from items
    yield last()


def _regroup(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yields the same values [..., T] in pieces of `size`; the last piece may be shorter."""
    held: Tensor | None = None
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], -1)
        while held.shape[-1] >= size:
            yield held[..., :size]
            held = held[..., size:]
    if held is not None and held.shape[-1]:
        yield held
