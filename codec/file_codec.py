"""Whole files: audio to encoded file and back, in bounded memory unless the codec itself needs all of the audio.

A codec that streams holds a few seconds, one with segments holds one segment; the others hold the file.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from codec.atomic_file import replacing
from codec.audio_file import AudioReader, writing_audio
from codec.bitstream import BitstreamHeader, BitstreamReader, BitstreamWriter, Block
from codec.conv import fold_weight_norm
from codec.model import Codec, EncodedSegment
from codec.segmenting import SegmentDecoder, SegmentEncoder
from codec.streaming import StreamingDecoder, StreamingEncoder, can_stream

__all__ = ["FileCodec", "FileResult", "bitrate_kbps"]

_BLOCK_FRAMES = 512  # of a stream: 7 s of the 24 kHz model, so that 8 bytes a block cost 0.6 % at 1.5 kbps
_STEP_SAMPLES = 1 << 15  # given to the network at a time


class FileResult(NamedTuple):
    """What was done to one file."""

    seconds: float
    encoded_bytes: int  # of the whole encoded file
    kbps: float  # of the whole encoded file; 0 for no audio
    notes: list[str]  # what the user should know: conversions, clipping


class FileCodec:
    """Encodes and decodes files with one codec.

    Args:
        codec: In eval mode, on the device to work on. It is taken over: its weight norm is folded.
    """

    def __init__(self, codec: Codec) -> None:
        self.fingerprint = codec.fingerprint()
        fold_weight_norm(codec)
        self.codec = codec
        self.device = next(codec.parameters()).device

    def encode(self, source: Path, target: Path, bandwidth_kbps: float) -> FileResult:
        """Audio file to encoded file.

        Raises:
            ValueError: The source is no sound audio (`AudioFileError`), or the bandwidth is out of reach.
            OSError: The target cannot be written.
        """
        config = self.codec.config
        reader = AudioReader(source, config.sample_rate, config.channels)
        header = BitstreamHeader(
            model=self.fingerprint,
            sample_rate=config.sample_rate,
            channels=config.channels,
            codebooks=config.codebooks_for(bandwidth_kbps),
            bits_per_code=config.bits_per_code,
            hop_samples=config.hop_samples,
            scaled=config.normalize,
            source_sample_rate=reader.source_sample_rate,
            source_channels=reader.source_channels,
        )
        with replacing(target) as beside:
            with beside.open("wb") as file:
                writer = BitstreamWriter(file, header)
                for segment in self._encode_audio(reader.blocks(), bandwidth_kbps):
                    scale = None if segment.scale is None else float(segment.scale)
                    writer.write(Block(segment.codes[0].cpu().numpy(), scale))
                writer.finish(reader.samples)
            encoded_bytes = os.path.getsize(beside)
        shortfall = reader.shortfall()
        notes = reader.conversions() + ([] if shortfall is None else [shortfall])
        return _result(reader.samples, config.sample_rate, encoded_bytes, notes)

    def decode(self, source: Path, target: Path) -> FileResult:
        """Encoded file to audio file, at the codec's rate and channels.

        Raises:
            ValueError: The source is no sound encoded file of this codec (`BitstreamError`), or the target is of no
                known format.
            OSError: A file cannot be read or written.
        """
        config = self.codec.config
        with source.open("rb") as file:
            reader = BitstreamReader(file, str(source))
            reader.check_model(self.fingerprint)
            self._check_fit(reader)
            with writing_audio(target, config.sample_rate, config.channels) as writer:
                held = torch.zeros(config.channels, 0)
                for audio in self._decode_blocks(reader):
                    held = torch.cat([held, audio[0].cpu()], -1)
                    ready = max(0, held.shape[-1] - config.hop_samples)
                    writer.write(held[:, :ready])
                    held = held[:, ready:]
                assert reader.samples is not None
                rest = reader.samples - writer.samples
                if not held.shape[-1] - config.hop_samples < rest <= held.shape[-1]:
                    raise reader.damaged(f"its codes do not decode to the {reader.samples} samples it announces")
                writer.write(held[:, :rest])
        notes = [f"{writer.clipped} samples clipped to full scale"] if writer.clipped else []
        return _result(writer.samples, config.sample_rate, source.stat().st_size, notes)

    def _encode_audio(self, blocks: Iterable[Tensor], bandwidth_kbps: float) -> Iterator[EncodedSegment]:
        steps = (step[None].to(self.device) for block in blocks for step in block.split(_STEP_SAMPLES, -1))
        if can_stream(self.codec.config):
            stream = StreamingEncoder(self.codec, bandwidth_kbps)
            codes = _then(map(stream.push, steps), stream.flush)
            yield from (EncodedSegment(block, None) for block in _regroup(codes, _BLOCK_FRAMES))
        else:
            encoder = SegmentEncoder(self.codec, bandwidth_kbps)
            for step in steps:
                yield from encoder.push(step)
            yield from encoder.flush()

    def _decode_blocks(self, reader: BitstreamReader) -> Iterator[Tensor]:
        if can_stream(self.codec.config):
            stream = StreamingDecoder(self.codec)
            step_frames = max(1, _STEP_SAMPLES // self.codec.config.hop_samples)
            for block in reader.blocks():
                yield from map(stream.push, self._codes(block).split(step_frames, -1))
            yield stream.flush()
        else:
            decoder = SegmentDecoder(self.codec)
            longest = math.ceil(self.codec.config.segment_samples_or(0) / self.codec.config.hop_samples)
            for i, block in enumerate(reader.blocks()):
                frames = block.codes.shape[1]
                if frames > longest > 0 or (i > 0 and longest == 0):
                    raise reader.damaged(f"segment {i} has {frames} frames, this model's have at most {longest}")
                scale = None if block.scale is None else torch.tensor([block.scale], device=self.device)
                yield decoder.push(EncodedSegment(self._codes(block), scale))
            yield decoder.flush()

    def _codes(self, block: Block) -> Tensor:
        return torch.from_numpy(block.codes.copy())[None].to(self.device)

    def _check_fit(self, reader: BitstreamReader) -> None:
        """The fingerprint names the model; a header may still contradict it."""
        config, header = self.codec.config, reader.header
        for name, wanted in (
            ("sample_rate", config.sample_rate),
            ("channels", config.channels),
            ("bits_per_code", config.bits_per_code),
            ("hop_samples", config.hop_samples),
            ("scaled", config.normalize),
        ):
            if getattr(header, name) != wanted:
                raise reader.damaged(f"its {name} is {getattr(header, name)}, the model's is {wanted}")
        if header.codebooks > config.codebooks:
            raise reader.damaged(f"it has {header.codebooks} codebooks, the model {config.codebooks}")


def _then(pieces: Iterable[Tensor], last: Callable[[], Tensor]) -> Iterator[Tensor]:
    yield from pieces
    yield last()


def _regroup(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same [B, K, F] in pieces of `size` frames, the last with what is left.

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


def bitrate_kbps(encoded_bytes: int, seconds: float) -> float:
    """Of a whole encoded file, 0 if it holds no audio."""
    return 8 * encoded_bytes / seconds / 1000 if seconds else 0.0


def _result(samples: int, sample_rate: int, encoded_bytes: int, notes: list[str]) -> FileResult:
    seconds = samples / sample_rate
    return FileResult(seconds, encoded_bytes, bitrate_kbps(encoded_bytes, seconds), notes)
