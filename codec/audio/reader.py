"""Audio files in and out, block by block: any rate and channel count in, the codec's out.

Everything libsndfile reads (wav, flac, ogg, mp3, aiff ...) goes in; wav and flac with 16 bits and Ogg Vorbis come out.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.atomic_file import atomic_write
from codec.audio.resampling import Resampler, mix_channels

__all__ = ["AUDIO_SUFFIXES", "AudioFileError", "AudioReader", "AudioSink", "AudioSource", "AudioWriter",
           "SoundFileSource", "to_int16", "writing_audio"]  # fmt: skip

# By which the audio in a folder is found; a file given by name may have any.
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
                            ".w64", ".rf64"})  # fmt: skip
WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
_BLOCK_FRAMES = 1 << 15  # read at a time; a second or so
_UNKNOWN_WAV_BYTES = 0x7FFFF000  # from here on the length in a header stands for one that was not known


class AudioFileError(ValueError):
    """An audio file cannot be read or written; the message says why, in one sentence."""


class AudioSource(Protocol):
    """Audio as it is, read once from its start to its end.

    Attributes:
        name: What messages call it.
        sample_rate, channels: What it has.
    """

    name: str
    sample_rate: int
    channels: int

    def read(self) -> NDArray[np.float32]:
        """The next samples, at least one, or none at the end.

        Shape: -> [t, C].

        Raises:
            AudioFileError: The audio is damaged.
        """

    def shortfall(self) -> str | None:
        """In words, by how much the audio was shorter than announced, once it is read."""

    def close(self) -> None:
        """Nothing will be read any more."""


class SoundFileSource:
    """An `AudioSource` of anything libsndfile reads.

    Args:
        file: A path, or an open file that can seek.
        name: As in `AudioSource`.

    Raises:
        AudioFileError: It is missing or not audio.
    """

    def __init__(self, file: Path | BinaryIO, name: str) -> None:
        if isinstance(file, Path) and not file.is_file():
            raise AudioFileError(f"no audio file at {name}")
        try:
            self._file = soundfile.SoundFile(file)
        except soundfile.SoundFileError as error:
            raise AudioFileError(f"{name} is not audio that can be read ({_reason(error)})") from error
        self.name = name
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self._samples = 0
        self._log: str = self._file.extra_info

    def read(self) -> NDArray[np.float32]:
        """As in `AudioSource`."""
        try:
            block: NDArray[np.float32] = self._file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioFileError(f"{self.name} is damaged after {self._samples} samples ({_reason(error)})") from error
        self._samples += len(block)
        return block

    def shortfall(self) -> str | None:
        """As in `AudioSource`; libsndfile tells it of MP3 by the missing samples, of WAV in its log, of Ogg not."""
        if self._samples < self._file.frames:
            return f"ends after {self._samples} of the {self._file.frames} samples it announces"
        for announced, found in re.findall(r"data : (\d+) \(should be (\d+)\)", self._log):
            if int(found) < int(announced) < _UNKNOWN_WAV_BYTES:
                return f"its audio is {found} bytes long where its header says {announced}"
        return None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class AudioReader:
    """Reads audio with the rate and channels of a codec, in bounded memory.

    Attributes:
        source_sample_rate, source_channels: What the source has.
        samples: How many were given out so far, at `sample_rate`.

    Args:
        source: A file of anything libsndfile reads, or another source of audio.
        sample_rate: Wanted rate in Hz.
        channels: Wanted channels, 1 or 2.

    Raises:
        AudioFileError: The file is missing or not audio.
    """

    def __init__(self, source: Path | AudioSource, sample_rate: int, channels: int) -> None:
        if isinstance(source, Path):
            source = SoundFileSource(source, str(source))
        self._source = source
        self.sample_rate = sample_rate
        self.channels = channels
        self.source_sample_rate = source.sample_rate
        self.source_channels = source.channels
        self.samples = 0
        self._source_samples = 0

    def conversions(self) -> list[str]:
        """What is done to the audio to suit the codec, in words; empty if nothing."""
        done = []
        if self.source_channels > self.channels:
            done.append(
                f"{self.source_channels} channels mixed to one" + (" on both sides" if self.channels > 1 else "")
            )
        elif self.source_channels < self.channels:
            done.append("one channel put on both sides")
        if self.source_sample_rate != self.sample_rate:
            done.append(f"resampled from {self.source_sample_rate} to {self.sample_rate} Hz")
        return done

    def blocks(self) -> Iterator[Tensor]:
        """The audio in order, once: ceil(T * sample_rate / source_sample_rate) samples for T of the source.

        Shape: [C, t] each, any t.

        Raises:
            AudioFileError: The audio is damaged, or holds a sample that is no finite number.
        """
        resampler = Resampler(self.source_sample_rate, self.sample_rate)
        # A header may say 1 Hz, and every sample then becomes a second.
        step = max(1, _BLOCK_FRAMES * self.source_sample_rate // self.sample_rate)
        try:
            while len(block := self._read()):
                for piece in mix_channels(torch.from_numpy(block.T), self.channels).split(step, -1):
                    yield self._count(resampler.push(piece))
        finally:
            self._source.close()
        yield self._count(resampler.flush(self.channels))

    def shortfall(self) -> str | None:
        """As in `AudioSource`."""
        return self._source.shortfall()

    def _read(self) -> NDArray[np.float32]:
        block = self._source.read()
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            where = self._source_samples + int(np.argmin(finite))
            raise AudioFileError(
                f"{self._source.name} holds a sample that is NaN or infinite, the first is number {where}"
            )
        self._source_samples += len(block)
        return block

    def _count(self, audio: Tensor) -> Tensor:
        self.samples += audio.shape[-1]
        return audio


class AudioSink(Protocol):
    """What decoded audio is written to.

    Attributes:
        clipped: Samples outside [-1, 1] so far, which were set to the nearer bound.
        samples: Samples so far, per channel.
    """

    clipped: int
    samples: int

    def write(self, audio: Tensor) -> None:
        """Appends `audio`.

        Shape: [C, t].
        """


class AudioWriter:
    """What `writing_audio` gives out.

    Attributes:
        clipped: Samples outside [-1, 1] so far, which were set to the nearer bound.
        samples: Samples so far, per channel.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self.clipped = 0
        self.samples = 0

    def write(self, audio: Tensor) -> None:
        """Appends `audio`.

        Shape: [C, t].
        """
        samples = audio.T.cpu().numpy()
        self.clipped += int(np.count_nonzero(np.abs(samples) > 1))
        self.samples += len(samples)
        self._file.write(to_int16(samples) if self._file.subtype == "PCM_16" else samples.clip(-1, 1))


@contextmanager
def writing_audio(path: Path, sample_rate: int, channels: int) -> Iterator[AudioWriter]:
    """A writer for an audio file that takes its name once the block ends without an error.

    Args:
        path: Its suffix, .wav, .flac or .ogg, chooses the format.
        sample_rate: In Hz.
        channels: Number of them.

    Raises:
        AudioFileError: The suffix is another, or libsndfile cannot write what was asked.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise AudioFileError(f"audio is written as {', '.join(WRITABLE)}, not as '{path.suffix}' ({path})")
    container, subtype = WRITABLE[suffix]
    with atomic_write(path) as temporary:
        try:
            with soundfile.SoundFile(temporary, "w", sample_rate, channels, subtype, format=container) as file:
                writer = AudioWriter(file)
                yield writer
        except soundfile.SoundFileError as error:
            raise AudioFileError(f"cannot write {path} ({_reason(error)})") from error
        if suffix == ".flac" and writer.samples == 0:
            # libsndfile leaves a file of 0 bytes that it cannot read itself.
            raise AudioFileError(f"FLAC cannot hold a signal of 0 samples: write a .wav instead of {path}")


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Full scale to 16 bits, to the nearest step; libsndfile itself would round down, half a step of bias."""
    return (samples * 32768).round().clip(-32768, 32767).astype(np.int16)


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
