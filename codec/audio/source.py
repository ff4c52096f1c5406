"""What every source of audio has, whether it is a file or a pipe, and the error that all of them raise."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.audio.files import readable

__all__ = ["MAX_SAMPLE_RATE", "AudioFileError", "AudioHeader", "AudioSource", "check_finite", "peak_of"]

MAX_SAMPLE_RATE = 10_000_000  # Hz; a header with more is corrupt


class AudioFileError(ValueError):
    """A file or a pipe that cannot be read or written as audio.

    Attributes:
        name: The file, or what messages call the pipe.
        reason: What is wrong, without the name.
    """

    def __init__(self, name: str | os.PathLike[str], reason: str) -> None:
        super().__init__(os.fspath(name), reason)
        self.name, self.reason = os.fspath(name), reason

    def __str__(self) -> str:
        return f"{readable(self.name)}: {self.reason}"


class AudioHeader(NamedTuple):
    """Format and length of a file."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples per channel


class AudioSource(Protocol):
    """Audio at its own rate, read once from start to end.

    Attributes:
        name: For messages.
        sample_rate: In Hz.
        channels: Number of channels.
        layout: Names of the channels, see `codec.audio.channels`; None for the usual layout of that number.
        notes: Sentences for the user, such as how much audio is missing; complete once all has been read.
    """

    name: str
    sample_rate: int
    channels: int
    layout: Sequence[str] | None

    @property
    def notes(self) -> list[str]: ...

    def read(self) -> NDArray[np.float32]:
        """The next samples, at least one; none at the end.

        Shape: -> [t, C].

        Raises:
            AudioFileError: The audio is corrupt.
        """

    def close(self) -> None:
        """Releases the source."""


def check_finite(samples: NDArray[np.float32], first: int, name: str) -> None:
    """Checks that all samples are numbers.

    Args:
        samples: Decoded audio.
        first: Number of its first frame in the source.
        name: Of the source.

    Shape: [t, C].

    Raises:
        AudioFileError: One is NaN or infinite.
    """
    if not math.isfinite(peak_of(samples)):
        frame = first + int(np.argmin(np.isfinite(samples).all(axis=1)))
        raise AudioFileError(name, f"has a sample that is NaN or infinite, the first at frame {frame}")


def peak_of(samples: NDArray[np.float32]) -> float:
    """NaN if a sample is NaN. NumPy, because torch would start its threads for a few thousand samples."""
    return float(np.abs(samples).max(initial=0.0))
