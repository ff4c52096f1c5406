"""Joins overlapping segments, one at a time, with a linear cross-fade, as encodec does."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["OverlapAdd"]


class OverlapAdd:
    """Adds segments that start every `stride` samples.

    Each segment is weighted by a triangle, and the sum of the segments is divided by the sum of the weights. Where two
    segments overlap, their shares are w1 / (w1 + w2) and w2 / (w1 + w2). Elsewhere the share is 1.

    Args:
        stride: Samples from the start of one segment to the start of the next.
        segment_samples: Length of the triangle, which is that of the longest segment. None takes that of the first.
    """

    def __init__(self, stride: int, segment_samples: int | None = None) -> None:
        self.stride = stride
        self.segment_samples = segment_samples
        # Weighted sum of the segments and sum of the weights, from the start of the last segment on.
        self._audio: Tensor | None = None
        self._weight = torch.zeros(0)

    def push(self, segment: Tensor) -> Tensor:
        """Adds the next segment. Returns the audio up to its start that was not returned before.

        Shape: segment [B, C, T] -> [B, C, t].

        Raises:
            ValueError: The segment is longer than the triangle.
        """
        samples = segment.shape[-1]
        if self.segment_samples is None:
            self.segment_samples = samples
        if samples > self.segment_samples:
            raise ValueError(f"a segment must have at most {self.segment_samples} samples, got {samples}")
        if self._audio is None:
            self._audio = finished = segment[..., :0]
            self._weight = segment.new_zeros(0)
        else:
            finished = self._take(self.stride)
        missing = max(0, samples - self._audio.shape[-1])
        self._audio, self._weight = F.pad(self._audio, (0, missing)), F.pad(self._weight, (0, missing))
        weights = _triangle(self.segment_samples, segment.device)[:samples]
        self._audio[..., :samples] += weights * segment
        self._weight[:samples] += weights
        return finished

    def flush(self) -> Tensor:
        """Returns the rest of the audio.

        Shape: -> [B, C, t].

        Raises:
            ValueError: There was no segment.
        """
        if self._audio is None:
            raise ValueError("expected at least one segment before flush")
        return self._take(self._audio.shape[-1])

    def _take(self, samples: int) -> Tensor:
        assert self._audio is not None
        finished = self._audio[..., :samples] / self._weight[:samples]
        self._audio, self._weight = self._audio[..., samples:].clone(), self._weight[samples:].clone()
        return finished


def _triangle(samples: int, device: torch.device) -> Tensor:
    """Shape: -> [samples], all positive."""
    ramp = torch.linspace(0, 1, samples + 2, device=device)[1:-1]
    return 0.5 - (ramp - 0.5).abs()
