"""Codes from an encoded file to audio, from its start or from the middle."""

import math
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from codec.bitstream.encodec.format import EncodecReader
from codec.bitstream.reader import BitstreamReader, Block
from codec.coding.segments import SegmentDecoder
from codec.config import CodecConfig
from codec.model import Codec, EncodedSegment
from codec.streaming.codec import StreamingDecoder, can_stream

__all__ = ["EncodedReader", "Part", "decode_blocks"]

EncodedReader = BitstreamReader | EncodecReader

_STEP_SAMPLES = 1 << 15  # decoded at a time


class Part:
    """Samples of a signal that are to be decoded, and what they take of its file.

    Attributes:
        bytes: Of the blocks so far, of each the share of its samples that lies in the part.

    Args:
        start, stop: The first sample, and the one after the last; None to the end.
    """

    def __init__(self, start: int = 0, stop: int | None = None) -> None:
        self.start = start
        self.stop = stop
        self.bytes = 0.0

    def count(self, block: Block, position: int, config: CodecConfig) -> None:
        """Adds a block whose samples begin at `position`."""
        samples = block.codes.shape[1] * config.hop_samples
        end = position + samples if self.stop is None else min(position + samples, self.stop)
        self.bytes += block.size * max(0, end - max(position, self.start)) / samples


def decode_blocks(codec: Codec, reader: EncodedReader, part: Part) -> Iterator[tuple[int, Tensor]]:
    """Audio of whole frames, from the start of the part or before to the end of the file, or to that of the part or
    beyond.

    From `part.start` on it is what decoding everything gives there: to the bit for a codec with segments, of which
    those that reach into the part are decoded, and to the rounding of float32 for one that streams. A stream is begun
    so many frames early that what its layers were padded with is forgotten; where there is an LSTM, which forgets
    nothing, it runs from the start of the file, but not the layers behind it. Other codecs decode all blocks as one.

    Args:
        codec: In eval mode.
        reader: Before its first block; `samples` is set once its end is reached.
        part: Its bytes are counted as blocks are decoded.

    Shape: -> pairs of the sample that the audio begins with, and [1, C, t].

    Raises:
        BitstreamError: The file is damaged, or its blocks cannot be this codec's.
    """
    if can_stream(codec.config):
        yield from _decode_stream(codec, reader, part)
    elif codec.config.segment_seconds is None:
        yield from _decode_whole(codec, reader, part)
    else:
        yield from _decode_segments(codec, reader, part)


def _decode_stream(codec: Codec, reader: EncodedReader, part: Part) -> Iterator[tuple[int, Tensor]]:
    hop = codec.config.hop_samples
    step_frames = max(1, _STEP_SAMPLES // hop)
    stream = StreamingDecoder(codec)
    first = max(0, part.start // hop - stream.warm_up_frames)
    frame = reader.seek(0 if stream.needs_all_frames else first)
    position = first * hop
    for block in reader.blocks():
        part.count(block, frame * hop, codec.config)
        codes = _codes(block, codec)
        before = min(max(0, first - frame), codes.shape[-1])
        frame += codes.shape[-1]
        if before:
            stream.skip(codes[..., :before])
        for step in codes[..., before:].split(step_frames, -1):
            audio = stream.push(step)
            yield position, audio
            position += audio.shape[-1]
    yield position, stream.flush()


def _decode_segments(codec: Codec, reader: EncodedReader, part: Part) -> Iterator[tuple[int, Tensor]]:
    hop, stride = codec.config.hop_samples, codec.segment_stride(0)
    longest = math.ceil(codec.config.segment_samples_or(0) / hop)
    # Segment i holds samples from i * stride to i * stride + longest * hop; the first that reaches beyond `start`:
    first = max(0, math.ceil((part.start + 1 - longest * hop) / stride))
    in_place = reader.seek(first * longest) == first * longest  # all before it are whole, as `start` lies behind them
    decoder = SegmentDecoder(codec, longest * hop if first else None)
    position = first * stride
    for i, block in enumerate(reader.blocks(), first):
        frames = block.codes.shape[1]
        if frames > longest or not in_place:
            raise reader.damaged(f"segment {i} has {frames} frames, this model's have at most {longest}")
        if part.stop is not None and i * stride >= part.stop:
            break
        part.count(block, i * stride, codec.config)
        audio = decoder.push(EncodedSegment(_codes(block, codec), _scale(block, codec)))
        yield position, audio
        position += audio.shape[-1]
    yield position, decoder.flush()


def _decode_whole(codec: Codec, reader: EncodedReader, part: Part) -> Iterator[tuple[int, Tensor]]:
    blocks = list(reader.blocks())
    if not blocks:
        return
    if len({block.scale for block in blocks}) > 1:
        raise reader.damaged("its blocks are one segment, but they have several scales")
    starts = accumulate((block.codes.shape[1] * codec.config.hop_samples for block in blocks), initial=0)
    for block, position in zip(blocks, starts, strict=False):
        part.count(block, position, codec.config)
    codes = torch.cat([_codes(block, codec) for block in blocks], -1)
    decoder = SegmentDecoder(codec)
    audio = decoder.push(EncodedSegment(codes, _scale(blocks[0], codec)))
    yield 0, audio
    yield audio.shape[-1], decoder.flush()


def _scale(block: Block, codec: Codec) -> Tensor | None:
    return None if block.scale is None else torch.tensor([block.scale], device=next(codec.parameters()).device)


def _codes(block: Block, codec: Codec) -> Tensor:
    return torch.from_numpy(block.codes.copy())[None].to(next(codec.parameters()).device)
