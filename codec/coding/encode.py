"""Audio to codes, in blocks as they are stored."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from codec.bitstream.layout import FRAMES_LIMIT
from codec.coding.segments import SegmentEncoder
from codec.config import CodecConfig
from codec.model import Codec, EncodedSegment
from codec.streaming.codec import StreamingEncoder, can_stream

__all__ = ["block_size", "encode_blocks"]

_BLOCK_FRAMES = 512  # of a stream: 7 s of the 24 kHz model, so that 10 bytes a block cost 0.8 % at 1.5 kbps
_STEP_SAMPLES = 1 << 15  # given to the network at a time
_Piece = TypeVar("_Piece")


def block_size(config: CodecConfig, block_frames: int | None) -> int:
    """Frames of a whole block: those wanted, or of some seconds, or of a segment.

    Raises:
        ValueError: So many do not fit a block, or a number is wanted of a codec that does not stream.
    """
    if block_frames is not None and not can_stream(config):
        raise ValueError(f"blocks of {block_frames} frames cannot be made: this model does not stream, its blocks are "
                         "its segments")  # fmt: skip
    size = block_frames or _BLOCK_FRAMES
    if config.segment_seconds is not None:
        size = math.ceil(config.segment_samples_or(0) / config.hop_samples)
    if block_frames == 0 or not 1 <= size <= FRAMES_LIMIT:
        raise ValueError(f"blocks of {block_frames if block_frames == 0 else size} frames cannot be made: "
                         f"1 to {FRAMES_LIMIT} are possible")  # fmt: skip
    return size


def encode_blocks(
    codec: Codec, audio: Iterable[Tensor], bandwidth_kbps: float, block_frames: int
) -> Iterator[EncodedSegment]:
    """What to store, a block at a time.

    A codec that streams fills whole blocks but the last, and so does one that codes all audio as one segment: its
    blocks repeat the segment's scale. Of a codec with segments each is a block.

    Args:
        codec: In eval mode.
        audio: In pieces of any length; the network is given it in steps of a fixed one.
        bandwidth_kbps: As in `Codec.encode`.
        block_frames: From `block_size`.

    Shape: audio [C, t] each -> codes [1, K, F] each.
    """
    device = next(codec.parameters()).device
    step_samples = min(_STEP_SAMPLES, block_frames * codec.config.hop_samples)
    steps = (step[None].to(device) for step in _regroup(audio, step_samples))
    if can_stream(codec.config):
        stream = StreamingEncoder(codec, bandwidth_kbps)
        codes = _then(map(stream.push, steps), stream.flush)
        yield from (EncodedSegment(block, None) for block in _regroup(codes, block_frames))
        return
    encoder = SegmentEncoder(codec, bandwidth_kbps)
    for segments in _then(map(encoder.push, steps), encoder.flush):
        for segment in segments:
            for block in segment.codes.split(block_frames, -1):
                yield EncodedSegment(block, segment.scale)


def _then(pieces: Iterable[_Piece], last: Callable[[], _Piece]) -> Iterator[_Piece]:
    yield from pieces
    yield last()


def _regroup(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same [..., T] in pieces of `size`, the last with what is left.

    So the place of a frame in a file follows from its number.
    """
    held: Tensor | None = None
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], -1)
        while held.shape[-1] >= size:
            yield held[..., :size]
            held = held[..., size:]
    if held is not None and held.shape[-1]:
        yield held
