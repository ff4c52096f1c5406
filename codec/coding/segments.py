"""Encodes and decodes one segment at a time (EnCodec, Défossez et al. 2022, section 3.1).

The 48 kHz model encodes segments of 1 s, of which 1 % overlaps the next.
"""

import torch
from torch import Tensor

from codec.model import Codec, EncodedSegment
from codec.streaming.overlap_add import OverlapAdd

__all__ = ["SegmentDecoder", "SegmentEncoder"]


class SegmentEncoder:
    """`Codec.encode_segments` for audio that arrives in pieces; returns each segment as soon as it is complete.

    A codec without segments returns one segment, at the end.

    Args:
        codec, bandwidth_kbps: As in `Codec.encode`.
    """

    def __init__(self, codec: Codec, bandwidth_kbps: float | None = None) -> None:
        self.codec = codec
        self.bandwidth_kbps = bandwidth_kbps
        self._held: list[Tensor] = []  # audio from the start of the next segment on

    def push(self, audio: Tensor) -> list[EncodedSegment]:
        """Returns the segments that `audio` completes, which may be none.

        Shape: audio [B, C, t] with any t -> codes [B, K, F] each.
        """
        self._held.append(audio)
        if self.codec.config.segment_seconds is None:
            return []
        held = torch.cat(self._held, -1)
        length, stride = self.codec.config.segment_samples_or(0), self.codec.config.segment_stride(0)
        segments = []
        while held.shape[-1] >= length:
            segments.append(self.codec.encode_segment(held[..., :length], self.bandwidth_kbps))
            held = held[..., stride:]
        self._held = [held.clone()]
        return segments

    def flush(self) -> list[EncodedSegment]:
        """Returns the segments that the end of the audio shortens.

        Shape: -> codes [B, K, F] each.
        """
        if not self._held:
            return []
        held = torch.cat(self._held, -1)
        self._held = []
        starts = range(0, held.shape[-1], self.codec.config.segment_stride(held.shape[-1]))
        return [self.codec.encode_segment(held[..., start:], self.bandwidth_kbps) for start in starts]


class SegmentDecoder:
    """`Codec.decode_segments` for segments that arrive one at a time; returns audio that no later segment can change.

    Args:
        codec: A codec with segments.
        segment_samples: Length of the signal's first segment; None if it is the first that is pushed.

    Raises:
        ValueError: The codec has no segments.
    """

    def __init__(self, codec: Codec, segment_samples: int | None = None) -> None:
        if codec.config.segment_seconds is None:
            raise ValueError("expected a codec with segments: this one decodes all audio at once")
        self.codec = codec
        self._joined = OverlapAdd(codec.config.segment_stride(0), segment_samples)
        self._has_segments = False

    def push(self, segment: EncodedSegment) -> Tensor:
        """Decodes the next segment. Returns the audio up to its start that was not returned before.

        Shape: codes [B, K, F] -> audio [B, C, t].

        Raises:
            ValueError: The segment is longer than the first.
        """
        self._has_segments = True
        return self._joined.push(self.codec.decode_segment(segment))

    def flush(self) -> Tensor:
        """Returns the rest of the audio.

        Shape: -> audio [B, C, t].
        """
        if not self._has_segments:
            return next(self.codec.parameters()).detach().new_zeros(1, self.codec.config.channels, 0)
        return self._joined.flush()
