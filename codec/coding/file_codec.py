"""Audio to encoded file and back, in bounded memory unless the codec itself needs all of the audio.

A codec that streams holds a few seconds, one with segments holds one segment; the others hold the file. What is read
and written may be a pipe.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from codec.atomic_file import atomic_write
from codec.audio.reader import AudioReader, AudioSink, AudioSource, SoundFileSource, writing_audio
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.format import EncodecReader, LanguageModel
from codec.bitstream.encodec.header import is_encodec_format
from codec.bitstream.entropy.coders import Coders
from codec.bitstream.reader import BitstreamHeader, BitstreamReader, BitstreamWriter, Block
from codec.coding.decode import EncodedReader, Part, decode_blocks
from codec.coding.encode import block_size, encode_blocks
from codec.model import Codec
from codec.network.conv import fold_weight_norm

__all__ = ["EVERYTHING", "FileCodec", "FileResult", "Span", "bitrate_kbps"]


class FileResult(NamedTuple):
    """What was done to one file."""

    seconds: float
    encoded_bytes: int  # of the whole encoded file; of a part of it, its share of the blocks that it lies in
    kbps: float  # what so many bytes are in so many seconds; 0 for no audio
    notes: list[str]  # what the user should know: conversions, clipping


class Span(NamedTuple):
    """A part of a signal."""

    start_seconds: float = 0.0
    duration_seconds: float | None = None  # None to the end

    def samples(self, sample_rate: int) -> tuple[int, int | None]:
        """First sample and the one after the last, None for the end; both times are rounded to samples.

        Raises:
            ValueError: A time is negative or no number, or the span holds no sample.
        """
        start, duration = self
        if not 0 <= start < math.inf:
            raise ValueError(f"the start must be 0 s or later, got {start:g} s")
        if duration is None:
            return round(start * sample_rate), None
        if not 0 < duration < math.inf or round(duration * sample_rate) == 0:
            raise ValueError(f"the duration must be at least a sample of 1/{sample_rate} s, got {duration:g} s")
        return round(start * sample_rate), round(start * sample_rate) + round(duration * sample_rate)


EVERYTHING = Span()


class FileCodec:
    """Encodes and decodes files with one codec.

    Args:
        codec: In eval mode, on the device to work on. It is taken over: its weight norm is folded.
        entropy: File with the model of the coding `transformer`, which need not be there.
    """

    def __init__(self, codec: Codec, entropy: Path | None = None) -> None:
        self.fingerprint = codec.fingerprint()
        self.coders = Coders(codec.config, self.fingerprint, entropy)
        fold_weight_norm(codec)
        self.codec = codec
        self.device = next(codec.parameters()).device

    def encode(self, source: Path, target: Path, bandwidth_kbps: float, coding: str | None = None) -> FileResult:
        """Audio file to encoded file.

        Raises:
            ValueError: The source is no sound audio (`AudioFileError`), or the bandwidth is out of reach.
            OSError: The target cannot be written.
        """
        audio = SoundFileSource(source, str(source))
        with atomic_write(target) as temporary, temporary.open("wb") as file:
            return self.encode_stream(audio, file, bandwidth_kbps, coding=coding)

    def encode_stream(
        self,
        source: AudioSource,
        file: BinaryIO,
        bandwidth_kbps: float,
        block_frames: int | None = None,
        coding: str | None = None,
    ) -> FileResult:
        """Audio to encoded file; either may be a pipe.

        The network is given the audio in steps of a fixed length, however it arrives: equal audio makes equal files.

        Args:
            source: Read to its end and closed.
            file: Written to, and flushed after every block.
            block_frames: Frames stored together, which the first of them waits for; None for some seconds.
            coding: `fixed`, `adaptive` or `transformer`; None for the last whose model is there, or for `fixed` if
                `block_frames` is given.

        Raises:
            ValueError: The audio is damaged (`AudioFileError`), the bandwidth is out of reach, a block size is given
                for a codec that does not stream, or the coding's model cannot be used.
            OSError: The file cannot be written.
        """
        config = self.codec.config
        size = block_size(config, block_frames)
        storage = self.coders.storage(coding, size, few=block_frames is not None)
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
            **storage._asdict(),
        )
        counted = _Counted(file)
        writer = BitstreamWriter(counted, header, self.coders.coder(header, "the encoded file"))  # type: ignore[arg-type]
        for segment in encode_blocks(self.codec, reader.blocks(), bandwidth_kbps, size):
            writer.write(Block(segment.codes[0].cpu().numpy(), _number(segment.scale)))
            file.flush()
        writer.finish(reader.samples)
        file.flush()
        shortfall = reader.shortfall()
        notes = reader.conversions() + ([] if shortfall is None else [shortfall])
        if block_frames is not None:
            around = counted.bytes - writer.code_bytes
            notes.append(f"{around} bytes of it around {writer.blocks} blocks of codes")
        seconds = reader.samples / config.sample_rate
        return FileResult(seconds, counted.bytes, bitrate_kbps(counted.bytes, seconds), notes)

    def decode(self, source: Path, target: Path, span: Span = EVERYTHING) -> FileResult:
        """Encoded file to audio file, at the codec's rate and channels.

        Raises:
            ValueError: The source is no sound encoded file of this codec (`BitstreamError`), the target is of no
                known format, or nothing of the signal is in the span.
            OSError: A file cannot be read or written.
        """
        config = self.codec.config
        with source.open("rb") as file:
            reader = self.open_encoded(file, str(source))
            with writing_audio(target, config.sample_rate, config.channels) as writer:
                return self.decode_stream(reader, writer, span)

    def open_encoded(self, file: BinaryIO, name: str, lm: LanguageModel | None = None) -> EncodedReader:
        """Reads the header of an encoded file of this codec, or of the encodec package's format; it may be a pipe.

        Raises:
            BitstreamError: It is no sound encoded file of this codec, or needs `lm`, the package's language model.
            EntropyFileError: It needs a model of the coding `transformer` that is not there or cannot be used.
        """
        source = ByteSource(file)
        if is_encodec_format(source.peek(5)):
            foreign = EncodecReader(source, name, lm)
            foreign.check_model(self.codec.config)
            return foreign
        reader = BitstreamReader(source, name)
        reader.check_model(self.fingerprint)
        self._check_fit(reader)
        reader.coding = self.coders.coder(reader.header, name)
        return reader

    def codes(self, source: AudioSource, bandwidth_kbps: float) -> Iterator[Tensor]:
        """The codes of audio without a file, a block or segment at a time.

        Shape: -> [K, F] each.

        Raises:
            ValueError: As in `encode_stream`.
        """
        config = self.codec.config
        reader = AudioReader(source, config.sample_rate, config.channels)
        for segment in encode_blocks(self.codec, reader.blocks(), bandwidth_kbps, block_size(config, None)):
            yield segment.codes[0].cpu()

    def decode_stream(
        self, reader: EncodedReader, sink: AudioSink, span: Span = EVERYTHING, whole_frames: bool = False
    ) -> FileResult:
        """Encoded file to audio; either may be a pipe.

        Args:
            reader: From `open_encoded`.
            span: The part to decode.
            whole_frames: Give every frame out as soon as it is decoded. Otherwise a frame is held back until it is
                known whether it is the last, which is cut to the length of the signal.

        Raises:
            ValueError: The file is damaged (`BitstreamError`), or nothing of the signal is in the span.
            OSError: A file cannot be read or written.
        """
        config = self.codec.config
        start, stop = span.samples(config.sample_rate)
        part, notes = Part(start, stop), []
        hold = 0 if whole_frames else config.hop_samples
        held, position = torch.zeros(config.channels, 0), 0
        for begin, audio in decode_blocks(self.codec, reader, part):
            position = begin - held.shape[-1]
            held = torch.cat([held, audio[0].cpu()], -1)
            ready = max(0, held.shape[-1] - hold)
            sink.write(_cut(held[:, :ready], position, start, stop))
            held, position = held[:, ready:], position + ready
            if stop is not None and position >= stop:
                break
        else:
            rest = self._rest(reader, position, held.shape[-1], start, stop)
            sink.write(_cut(held[:, : max(0, rest)], position, start, stop))
            notes += [f"{-rest} samples more than were encoded"] if rest < 0 else []
        notes += [f"{sink.clipped} samples clipped to full scale"] if sink.clipped else []
        seconds = sink.samples / config.sample_rate
        size = reader.bytes_read if span == EVERYTHING else round(part.bytes)
        return FileResult(seconds, size, bitrate_kbps(size, seconds), notes)

    def _rest(self, reader: EncodedReader, position: int, held: int, start: int, stop: int | None) -> int:
        """Samples of the signal from `position` on, of which `held` are there; negative if too many were given out."""
        samples, hop = reader.samples, self.codec.config.hop_samples
        if samples is None:
            assert stop is not None  # or the end would have been read
            return stop - position
        if start >= samples > 0 or start > samples:
            seconds = samples / self.codec.config.sample_rate
            raise ValueError(f"{reader.name} is {seconds:.3f} s long: there is nothing after its end")
        if not position + held - hop < samples <= position + held:
            raise reader.damaged(f"its codes do not decode to the {samples} samples it announces")
        return samples - position

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


class _Counted:
    """Counts the bytes written to a file that may not be able to tell."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        return self.file.write(data)


def _cut(audio: Tensor, position: int, start: int, stop: int | None) -> Tensor:
    """The part of `audio`, which begins at `position`, from `start` to `stop`."""
    end = audio.shape[-1] if stop is None else max(0, min(audio.shape[-1], stop - position))
    return audio[..., min(max(0, start - position), end) : end]


def _number(scale: Tensor | None) -> float | None:
    return None if scale is None else float(scale)


def bitrate_kbps(encoded_bytes: int, seconds: float) -> float:
    """Of an encoded file or a part of it, 0 if it holds no audio."""
    return 8 * encoded_bytes / seconds / 1000 if seconds else 0.0
