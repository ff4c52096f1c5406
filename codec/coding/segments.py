"""Codecs with independently coded segments, in the memory of a segment (EnCodec, Défossez et al. 2022, section 3.1).

The 48 kHz model codes 1 s at a time, with 1 % overlap. A codec without segments is one whose only segment ends with
the audio.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.model import Codec, EncodedSegment, triangle

__all__ = ["SegmentDecoder", "SegmentEncoder"]


class SegmentEncoder:
    """`Codec.encode` that returns each segment as soon as it is complete.

    Args:
        codec, bandwidth_kbps: As in `Codec.encode`.
    """

    def __init__(self, codec: Codec, bandwidth_kbps: float | None = None) -> None:
        self.codec = codec
        self.bandwidth_kbps = bandwidth_kbps
        self._held: list[Tensor] = []  # audio from the start of the next segment on

    def push(self, audio: Tensor) -> list[EncodedSegment]:
        """The segments that `audio` completes, which may be none.

        Shape: audio [B, C, t] with any t -> codes [B, K, F] each.
        """
        self._held.append(audio)
        if self.codec.config.segment_seconds is None:
            return []
        held = torch.cat(self._held, -1)
        length, stride = self.codec.config.segment_samples_or(0), self.codec.segment_stride(0)
        segments = []
        while held.shape[-1] >= length:
            segments.append(self.codec.encode_segment(held[..., :length], self.bandwidth_kbps))
            held = held[..., stride:]
        self._held = [held.clone()]
        return segments

    def flush(self) -> list[EncodedSegment]:
        """The segments that the end of the audio cuts short.

        Shape: -> codes [B, K, F] each.
        """
        if not self._held:
            return []
        held = torch.cat(self._held, -1)
        self._held = []
        starts = range(0, held.shape[-1], self.codec.segment_stride(held.shape[-1]))
        return [self.codec.encode_segment(held[..., start:], self.bandwidth_kbps) for start in starts]


class SegmentDecoder:
    """`Codec.decode` that takes one segment at a time and returns audio once no later segment can overlap it.

    Args:
        codec: As in `Codec.decode`.
        first_samples: Length of the signal's first segment, if the first one pushed is another.
    """

    def __init__(self, codec: Codec, first_samples: int | None = None) -> None:
        self.codec = codec
        # Weighted sum of the segments and the sum of their weights, from the start of the last segment on.
        self._audio = next(codec.parameters()).detach().new_zeros(1, codec.config.channels, 0)
        self._weight = self._audio[0, 0]
        self._triangle = None if first_samples is None else triangle(first_samples, self._audio.device)
        self._begun = False

    def push(self, segment: EncodedSegment) -> Tensor:
        """Adds the next segment; returns the audio up to its start that was not returned before.

        Shape: codes [B, K, F] -> audio [B, C, t].

        Raises:
            ValueError: The segment is longer than the first, or a codec without segments is given a second one.
        """
        piece = self.codec.decode_segment(segment)
        samples = piece.shape[-1]
        if self._triangle is None:
            self._triangle = triangle(samples, piece.device)
        if samples > len(self._triangle):
            raise ValueError(f"a segment of {samples} samples follows a first one of {len(self._triangle)}")
        if not self._begun:
            self._audio = finished = piece[..., :0]
            self._begun = True
        elif self.codec.config.segment_seconds is None:
            raise ValueError("a codec without segments decodes exactly one, got a second")
        else:
            finished = self._advance(self.codec.segment_stride(0))
        missing = max(0, samples - self._audio.shape[-1])
        self._audio, self._weight = F.pad(self._audio, (0, missing)), F.pad(self._weight, (0, missing))
        self._audio[..., :samples] += self._triangle[:samples] * piece
        self._weight[:samples] += self._triangle[:samples]
        return finished

    def flush(self) -> Tensor:
        """The rest of the audio.

        Shape: -> audio [B, C, t].
        """
        return self._advance(self._audio.shape[-1])

    def _advance(self, samples: int) -> Tensor:
        finished = self._audio[..., :samples] / self._weight[:samples]
        self._audio, self._weight = self._audio[..., samples:].clone(), self._weight[samples:].clone()
        return finished
