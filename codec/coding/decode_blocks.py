"""Codes of an encoded file to audio, from its start or from the middle."""

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from codec.bitstream.encodec.segments import EncodecReader
from codec.bitstream.layout import Block
from codec.bitstream.reader import BitstreamReader
from codec.coding.segments import SegmentDecoder
from codec.model import Codec, EncodedSegment
from codec.streaming import StreamingDecoder

__all__ = ["BlockReader", "DecodedPiece", "EncodedReader", "SampleRange", "decode_blocks"]

EncodedReader = BitstreamReader | EncodecReader

_STEP_SAMPLES = 1 << 15  # decoded at a time


class BlockReader(Protocol):
    """The codes of one signal. For a codec with segments, each block is a segment."""

    def blocks(self) -> Iterator[Block]:
        """The blocks in order, from where `seek` has moved to."""

    def seek(self, frame: int) -> int:
        """Moves to the last block that starts at or before `frame` and can be decoded; returns its first frame."""

    def corrupt(self, reason: str) -> ValueError:
        """The error for codes that do not fit the codec."""


class SampleRange(NamedTuple):
    """A part of a signal."""

    start: int = 0
    stop: int | None = None  # the sample after the last; None for the end of the signal

    @classmethod
    def from_seconds(cls, start: float, duration: float | None, sample_rate: int) -> Self:
        """Rounds times to samples; no duration means to the end.

        Raises:
            ValueError: The start is negative or not finite, or the duration is less than half a sample or not finite.
        """
        if not 0 <= start < math.inf:
            raise ValueError(f"the start must be 0 s or later, got {start:g} s")
        first = round(start * sample_rate)
        if duration is None:
            return cls(first)
        if not 0 < duration < math.inf or round(duration * sample_rate) == 0:
            raise ValueError(f"the duration must be at least one sample of 1/{sample_rate} s, got {duration:g} s")
        return cls(first, first + round(duration * sample_rate))

    def overlap(self, start: int, stop: int) -> int:
        """Number of samples from `start` to `stop` that are in this range."""
        end = stop if self.stop is None else min(stop, self.stop)
        return max(0, end - max(start, self.start))

    def cut(self, audio: Tensor, start: int) -> Tensor:
        """The part of `audio`, whose first sample has the number `start`, that is in this range.

        Shape: audio [..., T] -> [..., t].
        """
        end = audio.shape[-1] if self.stop is None else max(0, min(audio.shape[-1], self.stop - start))
        return audio[..., min(max(0, self.start - start), end) : end]


class DecodedPiece(NamedTuple):
    """Audio of whole frames."""

    start: int  # number of its first sample
    audio: Tensor  # [1, C, t]
    encoded_bytes: float  # of the file, for the samples of the range in blocks that were decoded since the last piece


def decode_blocks(codec: Codec, reader: BlockReader, part: SampleRange) -> Iterator[DecodedPiece]:
    """Decodes the whole frames of a part of the file. The pieces may start before the part and end after it.

    Within the part, a codec with segments gives bit-identical audio to decoding the whole file; only segments that
    overlap the part are decoded. A codec that streams gives the same audio up to float32 rounding. It starts early
    enough that the padding has no effect. An LSTM never forgets, so it runs from the start of the file, but the layers
    after it do not. Other codecs decode the whole file at once.

    Args:
        codec: In eval mode.
        reader: Before its first block.
        part: Samples to decode.

    Raises:
        ValueError: The blocks do not fit the codec, or the file is corrupt (`BitstreamError`).
    """
    if codec.config.can_stream:
        yield from _decode_stream(codec, reader, part)
    elif codec.config.segment_seconds is None:
        yield from _decode_whole(codec, reader, part)
    else:
        yield from _decode_segments(codec, reader, part)


def _decode_stream(codec: Codec, reader: BlockReader, part: SampleRange) -> Iterator[DecodedPiece]:
    hop = codec.config.hop_samples
    step_frames = max(1, _STEP_SAMPLES // hop)
    stream = StreamingDecoder(codec)
    first = max(0, part.start // hop - stream.warm_up_frames)
    frame = reader.seek(0 if stream.needs_all_frames else first)
    position = first * hop
    for block in reader.blocks():
        encoded_bytes = _encoded_bytes(block, frame * hop, hop, part)
        codes = _codes(block, codec, reader)
        skipped = min(max(0, first - frame), codes.shape[-1])
        frame += codes.shape[-1]
        if skipped:
            stream.skip(codes[..., :skipped])
        for step in codes[..., skipped:].split(step_frames, -1):
            audio = stream.push(step)
            yield DecodedPiece(position, audio, encoded_bytes)
            position += audio.shape[-1]
            encoded_bytes = 0.0
    yield DecodedPiece(position, stream.flush(), 0.0)


def _decode_segments(codec: Codec, reader: BlockReader, part: SampleRange) -> Iterator[DecodedPiece]:
    hop, stride = codec.config.hop_samples, codec.config.segment_stride(0)
    full_frames = math.ceil(codec.config.segment_samples_or(0) / hop)
    # Segment i has the samples from i * stride to i * stride + full_frames * hop. The first that ends after `start`:
    first = max(0, math.ceil((part.start + 1 - full_frames * hop) / stride))
    # All segments before it must be full, because the signal continues after them.
    is_aligned = reader.seek(first * full_frames) == first * full_frames
    decoder = SegmentDecoder(codec, full_frames * hop if first else None)
    position = first * stride
    for i, block in enumerate(reader.blocks(), first):
        frames = block.codes.shape[1]
        if not is_aligned:
            raise reader.corrupt(f"a segment before segment {first} does not have {full_frames} frames")
        if frames > full_frames:
            raise reader.corrupt(f"segment {i} has {frames} frames, but this model's have at most {full_frames}")
        if part.stop is not None and i * stride >= part.stop:
            break
        audio = decoder.push(EncodedSegment(_codes(block, codec, reader), _gain(block, codec)))
        yield DecodedPiece(position, audio, _encoded_bytes(block, i * stride, hop, part))
        position += audio.shape[-1]
    yield DecodedPiece(position, decoder.flush(), 0.0)


def _decode_whole(codec: Codec, reader: BlockReader, part: SampleRange) -> Iterator[DecodedPiece]:
    blocks = list(reader.blocks())
    if not blocks:
        return
    if len({block.gain for block in blocks}) > 1:
        raise reader.corrupt("its blocks are one segment, but they have different gains")
    hop = codec.config.hop_samples
    starts = accumulate((block.codes.shape[1] * hop for block in blocks), initial=0)
    encoded_bytes = sum(_encoded_bytes(block, start, hop, part) for block, start in zip(blocks, starts, strict=False))
    codes = torch.cat([_codes(block, codec, reader) for block in blocks], -1)
    yield DecodedPiece(0, codec.decode_segment(EncodedSegment(codes, _gain(blocks[0], codec))), encoded_bytes)


def _encoded_bytes(block: Block, start: int, hop_samples: int, part: SampleRange) -> float:
    """The bytes of a block times the fraction of its samples, from number `start` on, that are in the part."""
    samples = block.codes.shape[1] * hop_samples
    return block.size * part.overlap(start, start + samples) / samples


def _gain(block: Block, codec: Codec) -> Tensor | None:
    return None if block.gain is None else torch.tensor([block.gain], device=next(codec.parameters()).device)


def _codes(block: Block, codec: Codec, reader: BlockReader) -> Tensor:
    for k, (codes, size) in enumerate(zip(block.codes, codec.config.codebook_sizes, strict=False)):
        if codes.max() >= size:
            raise reader.corrupt(f"codebook {k} has {size} codes, but a block has the code {codes.max()}")
    return torch.from_numpy(block.codes.copy())[None].to(next(codec.parameters()).device)
