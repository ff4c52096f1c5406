"""Reads and writes files of the encodec package (ECDC version 0). Numbers are big-endian.

    magic    4s  b"ECDC"
    version  u8  0
    length   u32 bytes of the header
    header   JSON object: `m` name of the model, `al` samples, `nc` codebooks, `lm` whether a language model is used
    segments one from each of the samples 0, stride, 2 stride ... below `al`; a model without segments has one
        scale    f32, the gain of the segment, only if the model normalizes
        codes    all codes of a frame before the next frame: 10 bits each, lowest bit first, or, with a language
                 model, the bits of `codec.bitstream.encodec.range_coder`; zero bits fill the last byte

A segment of n samples has ceil(n / hop) frames. The format has no checksums and does not identify the weights.

With a language model, decoding needs exactly the probabilities of the encoder. The float arithmetic of torch can differ
in the last bit between versions, processors and numbers of threads (OMP_NUM_THREADS). After such a difference all codes
are wrong. The reader here usually notices this, because the codes end at another byte; the package does not check. The
format of `codec.bitstream.layout` does not have these problems.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.bitstream.block_coder import pack, unpack
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import (
    PACKAGE_CONFIGS,
    frames_of,
    package_model_name,
    read_encodec_header,
    truncated,
)
from codec.bitstream.encodec.range_coder import MIN_BITS, RangeDecoder, RangeEncoder, cumulative_tables
from codec.bitstream.header import BitstreamError
from codec.bitstream.layout import GAIN, Block, is_gain
from codec.config import CodecConfig

__all__ = ["PIECE_FRAMES", "EncodecReader", "LanguageModel", "segment_bytes"]

PIECE_FRAMES = 512  # of a long segment; a multiple of 4, so that pieces of 10-bit codes fill whole bytes
_BITS_PER_CODE = 10


class LanguageModel(Protocol):
    """Predicts the codes of one frame after another."""

    def __call__(self, previous: Tensor | None, num_codebooks: int, state: Any, /) -> tuple[Tensor, Any]:
        """Returns the probabilities of the next frame's codes and the state for the next call. See `EncodecLM`.

        Shape: previous [K] -> [size, K].
        """


def segment_bytes(pieces: Iterable[Tensor], gain: float | None, lm: LanguageModel | None) -> bytes:
    """Encodes one segment.

    Args:
        pieces: Codes of the segment, in order. Each piece but the last has a multiple of 4 frames.
        gain: Of a model that normalizes; None for other models.
        lm: Language model for a compressed file, or None.

    Shape: pieces [K, F] each.

    Raises:
        ValueError: The probabilities of the language model are invalid, or the gain is outside (0, 2^64).
    """
    if gain is not None and not is_gain(gain):
        raise ValueError(f"this audio is too loud to encode: the gain must be above 0 and below 2^64, got {gain:g}")
    prefix = b"" if gain is None else GAIN.pack(gain)
    frames = (piece.t().cpu() for piece in pieces)
    if lm is None:
        return prefix + b"".join(pack(piece.flatten().numpy(), _BITS_PER_CODE) for piece in frames)
    coder, previous, state = RangeEncoder(), None, None
    for piece in frames:
        for frame in piece:
            probabilities, state = lm(previous, len(frame), state)
            for code, table in zip(frame.tolist(), cumulative_tables(probabilities), strict=True):
                coder.push(code, table)
            previous = frame
    return prefix + coder.finish()


class EncodecReader:
    """Reads a file in the memory of one segment, or of `PIECE_FRAMES` frames of a longer segment.

    It has the methods that decoding needs of `codec.bitstream.reader.BitstreamReader`.

    Attributes:
        header: Read at once.
        samples: Length of the signal.
        language_model: Which compressed files need. Set it before `blocks`.

    Args:
        source: At the start of the file.
        name: Name of the file in messages.

    Raises:
        BitstreamError: The file is truncated or corrupt, or names an unknown model.
    """

    def __init__(self, source: ByteSource, name: str) -> None:
        self.name = name
        self._source = source
        self.header = read_encodec_header(source, name)
        self.samples = self.header.samples
        self._config = PACKAGE_CONFIGS[self.header.model]
        self.language_model: LanguageModel | None = None
        bits = MIN_BITS if self.header.is_compressed else _BITS_PER_CODE
        # A lower bound, so that an impossible length is refused before anything is decoded.
        if self.samples // self._config.hop_samples * self.header.num_codebooks * bits > 8 * source.remaining:
            raise truncated(name)
        self._segments = self.header.segment_samples()

    def check_model(self, config: CodecConfig) -> None:
        """Checks that a codec of this config can decode the file. The format does not identify the weights.

        Raises:
            BitstreamError: The architecture differs, or the language model is missing.
        """
        try:
            given = package_model_name(config)
        except ValueError as error:
            raise BitstreamError(f"{self.name} was encoded with {self.header.model}: {error}") from error
        if given != self.header.model:
            raise BitstreamError(f"{self.name} was encoded with {self.header.model}, but the model given is {given}")
        self._check_language_model()

    def blocks(self) -> Iterator[Block]:
        """Yields the remaining segments in order, a long one in pieces. Then the end of the file is checked.

        Raises:
            BitstreamError: The file is truncated or corrupt, or the language model is missing.
        """
        self._check_language_model()
        for samples in self._segments:
            yield from self._read_segment(samples)
        if self._source.read(1):  # in a compressed file, usually the only sign of wrong codes
            raise self.corrupt("bytes follow its end")

    def seek(self, frame: int) -> int:
        """Skips the segments that end at or before `frame`. Returns the number of the first frame left."""
        skipped = 0
        if self._config.segment_seconds is None:
            return skipped
        frames = frames_of(self._config.segment_samples_or(0), self._config)
        while skipped + frames <= frame and (samples := next(self._segments, 0)):
            skipped += sum(block.codes.shape[1] for block in self._read_segment(samples))
        return skipped

    def corrupt(self, reason: str) -> BitstreamError:
        """Returns the error for a file whose content contradicts itself or the codec."""
        return BitstreamError(f"{self.name} is corrupt: {reason}{self._other_cause}")

    @property
    def _other_cause(self) -> str:
        if not self.header.is_compressed:
            return ""
        return "; or it was compressed with another language model, torch version, processor or number of threads"

    @property
    def bytes_read(self) -> int:
        """Bytes of the file so far."""
        return self._source.position

    def _check_language_model(self) -> None:
        if self.header.is_compressed and self.language_model is None:
            raise BitstreamError(
                f"{self.name} is compressed with the language model of {self.header.model}: pass its weights with --lm"
            )

    def _read_segment(self, samples: int) -> Iterator[Block]:
        gain, begin = None, self._source.position
        if self._config.normalize:
            (gain,) = GAIN.unpack(self._take(GAIN.size))
            if not is_gain(gain):
                raise self.corrupt(f"a segment has the scale {gain}")
        frames = frames_of(samples, self._config)
        sizes = (min(PIECE_FRAMES, frames - first) for first in range(0, frames, PIECE_FRAMES))
        lm = self.language_model if self.header.is_compressed else None
        pieces = map(self._unpack, sizes) if lm is None else self._decompress(sizes, lm)
        for codes in pieces:
            yield Block(codes, gain, self._source.position - begin)
            begin = self._source.position

    def _unpack(self, frames: int) -> NDArray[np.int64]:
        num_codebooks = self.header.num_codebooks
        data = self._take(-(-frames * num_codebooks * _BITS_PER_CODE // 8))
        return unpack(data, _BITS_PER_CODE, frames * num_codebooks).reshape(frames, num_codebooks).T

    def _decompress(self, sizes: Iterable[int], lm: LanguageModel) -> Iterator[NDArray[np.int64]]:
        num_codebooks = self.header.num_codebooks
        coder, previous, state = RangeDecoder(lambda: self._take(1)[0]), None, None
        for size in sizes:
            codes = np.empty((num_codebooks, size), np.int64)
            for i in range(size):
                probabilities, state = lm(previous, num_codebooks, state)
                codes[:, i] = [self._pull(coder, table) for table in cumulative_tables(probabilities)]
                previous = torch.from_numpy(codes[:, i].copy())
            yield codes

    def _pull(self, coder: RangeDecoder, table: NDArray[np.int64]) -> int:
        try:
            return coder.pull(table)
        except BitstreamError:
            raise
        except ValueError as error:
            raise self.corrupt(str(error)) from error

    def _take(self, length: int) -> bytes:
        data = self._source.read(length) if length <= self._source.remaining else b""
        if len(data) < length:
            raise BitstreamError(f"{truncated(self.name)}{self._other_cause}")
        return data
