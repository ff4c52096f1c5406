"""Audio in: every file is opened here, and gets the sampling rate and the channels of a codec.

`AudioReader` reads audio from start to end, in bounded memory. `read_range` reads a part of a file. Both give the same
samples. Everything libsndfile decodes is accepted: wav, flac, ogg, opus, mp3, aiff and more.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.audio.channels import convert_channels, describe_channels
from codec.audio.files import readable
from codec.audio.levels import Levels
from codec.audio.resampling import StreamResampler, resampled_length, resampling_filter

__all__ = ["MAX_SAMPLE_RATE", "AudioFile", "AudioFileError", "AudioHeader", "AudioReader", "AudioSource",
           "read_header", "read_range"]  # fmt: skip

MAX_SAMPLE_RATE = 10_000_000  # Hz; a header with more is corrupt
_BLOCK_FRAMES = 1 << 15  # read at a time, about a second
_UNKNOWN_WAV_BYTES = 0x7FFFF000  # a WAV header with this length or more means that the length is unknown
_UNKNOWN_FRAMES = 2**62  # libsndfile reports 2**63 - 1 frames for a file that does not state its length
_FRAMES_PER_BYTE = 8192  # a FLAC block of pure silence has up to 65535 frames in 12 bytes


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
    """What a file states about itself."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples per channel


class AudioSource(Protocol):
    """Audio at its own rate, read once from start to end.

    Attributes:
        name: For messages.
        sample_rate: In Hz.
        channels: Number of channels.
        notes: Sentences for the user, such as how much audio is missing; complete once all has been read.
    """

    name: str
    sample_rate: int
    channels: int

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


class AudioFile:
    """An `AudioSource` for anything libsndfile decodes, which can also be read from any frame on.

    Attributes:
        frames: Samples per channel that the header states.

    Args:
        file: A path, or an open seekable file.
        name: For messages; the path if None.

    Raises:
        AudioFileError: The file is missing or is not audio.
    """

    def __init__(self, file: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> None:
        is_path = isinstance(file, str | os.PathLike)
        self.name = name or (os.fspath(file) if isinstance(file, str | os.PathLike) else "audio")
        if is_path and not os.path.isfile(file):  # type: ignore[arg-type]
            raise AudioFileError(self.name, "no such file")
        try:
            self._file = soundfile.SoundFile(os.fsencode(file) if is_path else file)  # type: ignore[arg-type]
        except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: ".raw" has no header
            raise AudioFileError(self.name, f"not audio that libsndfile can read ({_reason(error)})") from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames
        if not 1 <= self.sample_rate <= MAX_SAMPLE_RATE:
            self._file.close()
            raise AudioFileError(
                self.name, f"expected a sample rate of 1 to {MAX_SAMPLE_RATE} Hz, its header states {self.sample_rate}"
            )
        self._position = 0  # of sequential reading
        self._log: str = self._file.extra_info

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self) -> NDArray[np.float32]:
        """As in `AudioSource`."""
        block = self._decode(_BLOCK_FRAMES, self._position)
        self._position += len(block)
        return block

    def read_frames(self, start: int, stop: int) -> Tensor:
        """Frames [start, stop), without decoding what lies before if the format allows it.

        Shape: -> [C, stop - start].

        Raises:
            AudioFileError: The frames do not decode, the file ends before, or a sample is not finite.
        """
        try:
            self._file.seek(start)
        except soundfile.SoundFileError as error:
            raise AudioFileError(self.name, f"cannot be decoded at frame {start} ({_reason(error)})") from error
        samples = self._decode(stop - start, start)
        if len(samples) < stop - start:
            raise AudioFileError(
                self.name, f"ends at frame {start + len(samples)}, its header promises {self.frames} frames"
            )
        check_finite(samples, start, self.name)
        return torch.from_numpy(np.ascontiguousarray(samples.T))

    @property
    def notes(self) -> list[str]:
        """As in `AudioSource`. MP3 lacks samples then, and libsndfile logs it for WAV; for Ogg it cannot be known."""
        if self._position < self.frames:
            return [f"The audio ends after {self._position} of the {self.frames} samples that its header states."]
        return [
            f"The audio has {found} bytes, its header states {stated}."
            for stated, found in re.findall(r"data : (\d+) \(should be (\d+)\)", self._log)
            if int(found) < int(stated) < _UNKNOWN_WAV_BYTES
        ]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _decode(self, frames: int, position: int) -> NDArray[np.float32]:
        try:
            samples: NDArray[np.float32] = self._file.read(frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioFileError(self.name, f"cannot be decoded at frame {position} ({_reason(error)})") from error
        return samples


class AudioReader:
    """Reads audio from start to end with the rate and the channels of a codec, in bounded memory.

    Attributes:
        source_sample_rate, source_channels: What the source has.
        samples: Number of samples returned so far, per channel at `sample_rate`.

    Args:
        source: A file, or another source of audio. It is closed at the end.
        sample_rate: Wanted rate in Hz.
        channels: Wanted channels, see `codec.audio.channels`.

    Raises:
        AudioFileError: The file is missing or is not audio.
    """

    def __init__(self, source: Path | AudioSource, sample_rate: int, channels: int) -> None:
        self._source: AudioSource = AudioFile(source) if isinstance(source, Path) else source
        self.sample_rate = sample_rate
        self.channels = channels
        self.source_sample_rate = self._source.sample_rate
        self.source_channels = self._source.channels
        self.samples = 0
        self._levels = Levels()

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about the source and its levels, without its name; complete after `blocks`."""
        return [*self._source.notes, *self._levels.notes()]

    def conversions(self) -> list[str]:
        """What is changed in the audio to suit the codec, in words; empty if nothing is."""
        mixing = describe_channels(self.source_channels, self.channels)
        done = [] if mixing is None else [mixing]
        if self.source_sample_rate != self.sample_rate:
            done.append(f"resampled from {self.source_sample_rate} to {self.sample_rate} Hz")
        return done

    def blocks(self) -> Iterator[Tensor]:
        """The audio in order, once. T samples of the source become ceil(T * sample_rate / source_sample_rate).

        Shape: [C, t] each, any t.

        Raises:
            AudioFileError: The audio is corrupt, or a sample is not finite.
        """
        resampler = StreamResampler(self.source_sample_rate, self.sample_rate, self.channels)
        # At a source rate of 1 Hz every sample becomes a second, so blocks are limited at the higher rate.
        step = max(1, _BLOCK_FRAMES * self.source_sample_rate // self.sample_rate)
        position = 0
        try:
            while len(block := self._source.read()):
                check_finite(block, position, self._source.name)
                position += len(block)
                self._levels.push(block)
                for piece in convert_channels(torch.from_numpy(block.T), self.channels).split(step, -1):
                    yield self._count(resampler.push(piece))
        finally:
            self._source.close()
        yield self._count(resampler.flush())

    def _count(self, audio: Tensor) -> Tensor:
        self.samples += audio.shape[-1]
        return audio


def read_header(path: str | os.PathLike[str]) -> AudioHeader:
    """Reads rate, channels and length of a file, but no samples.

    Raises:
        AudioFileError: The file is missing, is not audio, or states no plausible length.
    """
    with AudioFile(path) as file:
        header = AudioHeader(file.sample_rate, file.channels, file.frames)
    if header.frames >= _UNKNOWN_FRAMES:
        raise AudioFileError(path, "does not state its length")
    if header.frames > _FRAMES_PER_BYTE * os.path.getsize(path):
        raise AudioFileError(path, f"promises {header.frames} frames, more than its size can hold")
    return header


def read_range(
    path: str | os.PathLike[str], sample_rate: int, channels: int, start: int = 0, stop: int | None = None
) -> Tensor:
    """Samples [start, stop) of a file at another rate; the rest of the file is not resampled.

    The result equals that part of what `AudioReader` gives for the whole file.

    Args:
        path: Any file that libsndfile decodes.
        sample_rate: Rate of the result in Hz, in which `start` and `stop` are counted.
        channels: Channels of the result.
        start: First sample.
        stop: Sample after the last; None, or a number beyond the end, stands for the end of the file.

    Shape: -> [channels, t] with t = stop - start or less.

    Raises:
        AudioFileError: The file is missing, is not audio, ends before `start`, is corrupt, or has a sample that is not
            finite.
    """
    with AudioFile(path) as file:
        length = resampled_length(file.frames, file.sample_rate, sample_rate)
        stop = length if stop is None else min(stop, length)
        if stop <= start:
            raise AudioFileError(path, f"ends before {start / sample_rate:.3f} s")
        filter_ = resampling_filter(file.sample_rate, sample_rate)
        first, last = filter_.input_range(start, stop)
        first, last = max(0, first), min(file.frames, last)
        audio = convert_channels(file.read_frames(first, last), channels)
    audio = filter_(audio, first, start, stop).contiguous()
    if not math.isfinite(_peak(audio.numpy())):
        raise AudioFileError(path, "has samples that are too large to be filtered in float32")
    return audio


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
    if not math.isfinite(_peak(samples)):
        frame = first + int(np.argmin(np.isfinite(samples).all(axis=1)))
        raise AudioFileError(name, f"has a sample that is NaN or infinite, the first at frame {frame}")


def _peak(samples: NDArray[np.float32]) -> float:
    """NaN if a sample is NaN. NumPy, because torch would start its threads for a few thousand samples."""
    return float(np.abs(samples).max(initial=0.0))


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
