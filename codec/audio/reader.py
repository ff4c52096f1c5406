"""Audio in: every file is opened here, and gets the sampling rate and the channels of a codec.

`AudioReader` reads audio from start to end, in bounded memory. `read_range` reads a part of a file. Both give the same
samples. Everything libsndfile decodes is accepted: wav, flac, ogg, opus, mp3, aiff and more.
"""

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.audio.channels import convert_channels, describe_channels
from codec.audio.decoders import decode_converted, open_decoder
from codec.audio.levels import Levels
from codec.audio.resampling import StreamResampler, resampled_length
from codec.audio.source import MAX_SAMPLE_RATE, AudioFileError, AudioHeader, AudioSource, check_finite, peak_of

__all__ = ["AudioFile", "AudioReader", "read_header", "read_range"]

_BLOCK_FRAMES = 1 << 15  # resampled at a time, at the higher rate
_UNKNOWN_FRAMES = 2**62  # libsndfile reports 2**63 - 1 frames for a file that does not state its length
_FRAMES_PER_BYTE = 8192  # a FLAC block of pure silence has up to 65535 frames in 12 bytes
_MAX_HEADER_BYTES = 4096  # a larger file should have audio


class AudioFile:
    """An `AudioSource` for a file of any format, which can also be read from any frame on.

    Attributes:
        frames: Samples per channel. It is what decodes, not what a header states, unless the middle of the file is
            corrupt.

    Args:
        file: A path, or an open seekable file.
        name: For messages; the path if None.
        closes: Close an open file at the end too.

    Raises:
        AudioFileError: The file is missing or is not audio.
    """

    def __init__(self, file: str | os.PathLike[str] | BinaryIO, name: str | None = None, closes: bool = False) -> None:
        path = None
        if isinstance(file, str | os.PathLike):
            self.name = name or os.fspath(file)
            path = os.fsencode(file)
            file, closes = _open_regular(path, self.name), True
        else:
            self.name = name or "audio"
        self._file, self._closes = file, closes
        try:
            self._decoder = open_decoder(file, self.name, path)
        except BaseException:
            self._close_file()
            raise
        self.sample_rate, self.channels = self._decoder.sample_rate, self._decoder.channels
        self.layout, self.frames = self._decoder.layout, self._decoder.frames
        if not 1 <= self.sample_rate <= MAX_SAMPLE_RATE:
            self.close()
            raise AudioFileError(
                self.name, f"expected a sample rate of 1 to {MAX_SAMPLE_RATE} Hz, its header states {self.sample_rate}"
            )
        self._bytes = file.seek(0, os.SEEK_END)
        self._position = 0  # of sequential reading
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def notes(self) -> list[str]:
        """As in `AudioSource`."""
        notes = list(self._decoder.notes)
        if self._ended and self._position < self.frames:
            notes.append(f"The audio ends after {self._position} of the {self.frames} samples that its header states.")
        if not notes and not self.frames and self._bytes > _MAX_HEADER_BYTES:
            notes.append(f"No audio was found in its {self._bytes} bytes.")
        return notes

    def read(self) -> NDArray[np.float32]:
        """As in `AudioSource`."""
        block = self._decoder.decode(self._position, self._position + self._decoder.block_frames)
        self._position += len(block)
        self._ended = not len(block)
        return block

    def read_frames(self, start: int, stop: int) -> Tensor:
        """Frames [start, stop), without decoding all that lies before if the format allows it.

        Shape: -> [C, stop - start].

        Raises:
            AudioFileError: The frames do not decode, the file ends before, or a sample is not finite.
        """
        return torch.from_numpy(np.ascontiguousarray(self._checked(start, stop).T))

    def read_converted(self, sample_rate: int, channels: int, start: int, stop: int) -> Tensor:
        """Samples [start, stop) at another rate and with other channels.

        Shape: -> [channels, stop - start].

        Raises:
            AudioFileError: As in `read_frames`.
        """
        return decode_converted(self._decoder, self._checked, sample_rate, channels, start, stop)

    def close(self) -> None:
        """Closes the file."""
        self._decoder.close()
        self._close_file()

    def _close_file(self) -> None:
        if self._closes:
            self._file.close()

    def _checked(self, start: int, stop: int) -> NDArray[np.float32]:
        samples = self._decoder.decode(start, stop)
        if len(samples) < stop - start:
            raise AudioFileError(
                self.name, f"ends at frame {start + len(samples)}, its header promises {self.frames} frames"
            )
        check_finite(samples, start, self.name)
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
                audio = convert_channels(torch.from_numpy(block.T), self.channels, self._source.layout)
                for piece in audio.split(step, -1):
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
        audio = file.read_converted(sample_rate, channels, start, stop)
    if not math.isfinite(peak_of(audio.numpy())):
        raise AudioFileError(path, "has samples that are too large to be filtered in float32")
    return audio


def _open_regular(path: bytes, name: str) -> BinaryIO:
    """Opens a file; a folder, device or named pipe, which may block, is not opened."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioFileError(name, "is not a file")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise AudioFileError(name, "no such file") from error
    except OSError as error:
        raise AudioFileError(name, f"cannot be opened ({error.strerror})") from error
