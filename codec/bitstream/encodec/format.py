"""Files of the encodec package (ECDC version 0), read and written.

    magic    4s  b"ECDC"
    version  u8  0
    length   u32 of the header
    header   JSON object: `m` name of the model, `al` samples, `nc` codebooks, `lm` whether a language model codes them
    segments one from each of 0, stride, 2 stride ... samples on, all before `al`; one in all without segments
        scale    f32, if the model normalizes
        codes    all books of a frame before the next frame: 10 bits each, lowest bit first, or the bits of
                 `codec.bitstream.encodec.range_coder`, which fill bytes in the same way; zero bits to a whole byte

Numbers are big-endian. A segment of n samples has ceil(n / hop) frames. There are no checksums, and nothing tells one
set of weights from another. With a language model a file is only as portable as float arithmetic: torch's results can
differ in their last bits from one version, processor or number of threads (OMP_NUM_THREADS) to another, and where the
probabilities do, all codes after it are lost. That is noticed, as a rule, by where the codes end; the package does not
look there. The format of `codec.bitstream.reader` has none of this.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.bitstream.bit_packing import pack, unpack
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import OFFICIAL, frames_of, official_name, read_encodec_header, truncated
from codec.bitstream.encodec.range_coder import FEWEST_BITS, RangeDecoder, RangeEncoder, cumulative_tables
from codec.bitstream.layout import is_scale
from codec.bitstream.reader import BitstreamError, Block
from codec.config import CodecConfig

__all__ = ["PIECE_FRAMES", "EncodecReader", "LanguageModel", "segment_bytes"]

PIECE_FRAMES = 512  # of a long segment; a multiple of 4, so that codes of 10 bits fill whole bytes
_SCALE = struct.Struct(">f")


class LanguageModel(Protocol):
    """Predicts the codes of one frame after another."""

    def __call__(self, before: Tensor | None, books: int, state: Any) -> tuple[Tensor, Any]:
        """Probabilities of the next frame's codes, and the state for the call after; see `EncodecLM`.

        Shape: before [K] -> [size, K].
        """


def segment_bytes(pieces: Iterable[Tensor], scale: float | None, lm: LanguageModel | None) -> bytes:
    """One segment of a file.

    Args:
        pieces: Its codes, in order; each but the last of a multiple of 4 frames.
        scale: Of a model that normalizes.
        lm: The language model, for a file that is compressed.

    Shape: pieces [K, F] each.

    Raises:
        ValueError: The language model's probabilities are such as nothing can be coded with, or the scale is none that
            decodes, as that of audio whose squares overflow.
    """
    if scale is not None and not is_scale(scale):
        raise ValueError(f"audio so loud cannot be encoded: a segment has the scale {scale:g}, below 2^64 it decodes")
    prefix = b"" if scale is None else _SCALE.pack(scale)
    frames = (piece.t().cpu() for piece in pieces)
    if lm is None:
        bits = OFFICIAL["encodec_24khz"].bits_per_code  # the other has as many
        return prefix + b"".join(pack(piece.flatten().numpy(), bits) for piece in frames)
    coder, before, state = RangeEncoder(), None, None
    for piece in frames:
        for frame in piece:
            probabilities, state = lm(before, len(frame), state)
            for code, table in zip(frame.tolist(), cumulative_tables(probabilities), strict=True):
                coder.push(code, table)
            before = frame
    return prefix + coder.finish()


class EncodecReader:
    """Reads a file in the memory of one segment, or of some hundred frames of a long one.

    It can stand for a `codec.bitstream.reader.BitstreamReader` where files are decoded.

    Attributes:
        header: Read at once.
        samples: Length of the signal.

    Args:
        source: At the start of the file; may be a pipe.
        name: What messages call it.
        lm: The language model, which compressed files need.

    Raises:
        BitstreamError: The file is truncated or damaged, or of no model of the package.
    """

    def __init__(self, source: ByteSource, name: str, lm: LanguageModel | None = None) -> None:
        self.name = name
        self._source = source
        self.header = read_encodec_header(source, name)
        self.samples = self.header.samples
        self._config = OFFICIAL[self.header.model]
        self._lm = lm if self.header.compressed else None
        bits = FEWEST_BITS if self.header.compressed else self._config.bits_per_code
        # A bound, so that a header that lies is found out before anything is decoded.
        if self.samples // self._config.hop_samples * self.header.codebooks * bits > 8 * source.left:
            raise truncated(name)
        self._segments = self.header.segment_samples()

    def check_model(self, config: CodecConfig) -> None:
        """Whether a codec of this config can decode the file; weights are not told apart.

        Raises:
            BitstreamError: It cannot, or the language model is missing.
        """
        try:
            given = official_name(config)
        except ValueError as error:
            raise BitstreamError(f"{self.name} was encoded with {self.header.model}, not with this: {error}") from error
        if given != self.header.model:
            raise BitstreamError(f"{self.name} was encoded with {self.header.model}, but the model given is {given}")
        self._check_language_model()

    def blocks(self) -> Iterator[Block]:
        """The segments that are left, in order, a long one in pieces; then the end of the file is checked.

        Raises:
            BitstreamError: The file is truncated or damaged, or the language model is missing.
        """
        self._check_language_model()
        for samples in self._segments:
            yield from self._read_segment(samples)
        if self._source.read(1):  # of a compressed file all that tells, as a rule, that its codes came out wrong
            raise self.damaged("bytes follow its end")

    def seek(self, frame: int) -> int:
        """Passes over segments that end at `frame` or before it; returns the number of the first frame left."""
        passed = 0
        if self._config.segment_seconds is None:
            return passed
        whole = self._config.segment_samples_or(0)
        frames = frames_of(whole, self._config)
        while passed + frames <= frame and (samples := next(self._segments, 0)):
            passed += sum(block.codes.shape[1] for block in self._read_segment(samples))
        return passed

    def damaged(self, what: str) -> BitstreamError:
        """An error for what only the decoder can tell."""
        return BitstreamError(f"{self.name} is damaged: {what}{self._or_else}")

    @property
    def _or_else(self) -> str:
        if not self.header.compressed:
            return ""
        return "; or it was compressed with another language model, torch, processor or number of threads"

    @property
    def bytes_read(self) -> int:
        """Of the file so far."""
        return self._source.taken

    def _check_language_model(self) -> None:
        if self.header.compressed and self._lm is None:
            raise BitstreamError(
                f"{self.name} is compressed with the language model of {self.header.model}: give its weights with --lm"
            )

    def _read_segment(self, samples: int) -> Iterator[Block]:
        scale, begin = None, self._source.taken
        if self._config.normalize:
            (scale,) = _SCALE.unpack(self._take(_SCALE.size))
            if not is_scale(scale):
                raise self.damaged(f"a segment has the scale {scale}")
        frames = frames_of(samples, self._config)
        sizes = (min(PIECE_FRAMES, frames - first) for first in range(0, frames, PIECE_FRAMES))
        pieces = map(self._unpacked, sizes) if self._lm is None else self._decompressed(sizes, self._lm)
        for codes in pieces:
            yield Block(codes, scale, self._source.taken - begin)
            begin = self._source.taken

    def _unpacked(self, frames: int) -> NDArray[np.int64]:
        books, bits = self.header.codebooks, self._config.bits_per_code
        data = self._take(-(-frames * books * bits // 8))
        return unpack(data, bits, frames * books).reshape(frames, books).T

    def _decompressed(self, sizes: Iterable[int], lm: LanguageModel) -> Iterator[NDArray[np.int64]]:
        coder, before, state = RangeDecoder(lambda: self._take(1)[0]), None, None
        for size in sizes:
            codes = np.empty((self.header.codebooks, size), np.int64)
            for i in range(size):
                probabilities, state = lm(before, self.header.codebooks, state)
                codes[:, i] = [self._pull(coder, table) for table in cumulative_tables(probabilities)]
                before = torch.from_numpy(codes[:, i].copy())
            yield codes

    def _pull(self, coder: RangeDecoder, table: NDArray[np.int64]) -> int:
        try:
            return coder.pull(table)
        except BitstreamError:
            raise
        except ValueError as error:
            raise self.damaged(
                f"{error}, unless it was made with another language model or other arithmetic"
            ) from error

    def _take(self, length: int) -> bytes:
        data = self._source.read(length) if length <= self._source.left else b""
        if len(data) < length:
            raise BitstreamError(f"{truncated(self.name)}{self._or_else}")
        return data
