"""Audio files in and out, block by block: any rate and channel count in, the codec's out.

Everything libsndfile reads (wav, flac, ogg, mp3, aiff ...) goes in; wav and flac with 16 bits and Ogg Vorbis come out.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from codec.atomic_file import replacing

__all__ = ["AUDIO_SUFFIXES", "AudioFileError", "AudioReader", "AudioWriter", "Resampler", "mix_channels",
           "writing_audio"]  # fmt: skip

# By which the audio in a folder is found; a file given by name may have any.
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
                            ".w64", ".rf64"})  # fmt: skip
WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
_BLOCK_FRAMES = 1 << 15  # read at a time; a second or so


class AudioFileError(ValueError):
    """An audio file cannot be read or written; the message says why, in one sentence."""


class AudioReader:
    """Reads an audio file with the rate and channels of a codec, in bounded memory.

    Attributes:
        source_sample_rate, source_channels: What the file has.
        samples: How many were given out so far, at `sample_rate`.

    Args:
        path: Of anything libsndfile reads.
        sample_rate: Wanted rate in Hz.
        channels: Wanted channels, 1 or 2.

    Raises:
        AudioFileError: The file is missing or not audio.
    """

    def __init__(self, path: Path, sample_rate: int, channels: int) -> None:
        if not path.is_file():
            raise AudioFileError(f"no audio file at {path}")
        try:
            self._file = soundfile.SoundFile(path)
        except soundfile.SoundFileError as error:
            raise AudioFileError(f"{path} is not audio that can be read ({_reason(error)})") from error
        self.path = path
        self.sample_rate = sample_rate
        self.channels = channels
        self.source_sample_rate: int = self._file.samplerate
        self.source_channels: int = self._file.channels
        self.samples = 0
        self._source_samples = 0
        self._log: str = self._file.extra_info

    def conversions(self) -> list[str]:
        """What is done to the file to suit the codec, in words; empty if nothing."""
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
        """The audio in order, once.

        Shape: [C, t] each, any t.

        Raises:
            AudioFileError: The file is damaged, or holds a sample that is no finite number.
        """
        resampler = Resampler(self.source_sample_rate, self.sample_rate)
        with self._file:
            while len(block := self._read()):
                yield self._count(resampler.push(mix_channels(torch.from_numpy(block.T), self.channels)))
        yield self._count(resampler.flush(self.channels))

    def shortfall(self) -> str | None:
        """In words, by how much the file was shorter than announced, once it is read.

        libsndfile tells this of MP3 by the missing samples and of WAV in its log alone; of Ogg it does not.
        """
        if self._source_samples < self._file.frames:
            return f"ends after {self._source_samples} of the {self._file.frames} samples it announces"
        for announced, found in re.findall(r"data : (\d+) \(should be (\d+)\)", self._log):
            if int(found) < int(announced):
                return f"its audio is {found} bytes long where its header says {announced}"
        return None

    def _read(self) -> np.ndarray:
        try:
            block: np.ndarray = self._file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioFileError(
                f"{self.path} is damaged after {self._source_samples} samples ({_reason(error)})"
            ) from error
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            where = self._source_samples + int(np.argmin(finite))
            raise AudioFileError(f"{self.path} holds a sample that is NaN or infinite, the first is number {where}")
        self._source_samples += len(block)
        return block

    def _count(self, audio: Tensor) -> Tensor:
        self.samples += audio.shape[-1]
        return audio


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
        samples = samples.clip(-1, 1)
        if self._file.subtype == "PCM_16":
            # libsndfile itself would round down, half a step of bias.
            samples = (samples * 32768).round().clip(-32768, 32767).astype(np.int16)
        self._file.write(samples)


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
    with replacing(path) as beside:
        try:
            with soundfile.SoundFile(beside, "w", sample_rate, channels, subtype, format=container) as file:
                writer = AudioWriter(file)
                yield writer
        except soundfile.SoundFileError as error:
            raise AudioFileError(f"cannot write {path} ({_reason(error)})") from error
        if suffix == ".flac" and writer.samples == 0:
            # libsndfile leaves a file of 0 bytes that it cannot read itself.
            raise AudioFileError(f"FLAC cannot hold a signal of 0 samples: write a .wav instead of {path}")


class Resampler:
    """Band-limited resampling of a signal that arrives in blocks.

    Output sample n lies at time n / target; it is the sum of the input under a sinc of cutoff 0.99 times half the lower
    rate, windowed by a squared cosine to 6 zero crossings on either side. That is what
    `torchaudio.functional.resample` computes from a whole signal by default; its table of
    target * (source + 2 * reach) weights is out of reach for rates with no common divisor, so only the weights within
    reach of each of the `target` phases are kept here.

    Args:
        source_rate, target_rate: In Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        divisor = math.gcd(source_rate, target_rate)
        self.source, self.target = source_rate // divisor, target_rate // divisor
        if self.source == self.target:
            return
        cutoff = 0.99 * min(self.source, self.target)  # in units of the reduced rates, twice the cutoff frequency
        self._reach = math.ceil(6 * self.source / cutoff)
        # Phase p lies p * source / target input samples after output 0; its taps surround the sample before it.
        phase = torch.arange(self.target, dtype=torch.float64)[:, None] * self.source / self.target
        taps = torch.arange(-self._reach, self._reach + 2)
        time = (phase.floor() + taps - phase) * cutoff / self.source  # in zero crossings
        window = (time.clamp(-6, 6) * math.pi / 12).cos().square()
        self._weights = (time.clamp(-6, 6).sinc() * window * cutoff / self.source).float()  # [target, taps]
        self._taps = taps
        self._start = -self._reach  # position in the signal of the first held sample; before 0 there are zeros
        self._held: Tensor | None = None
        self._next = 0  # output sample

    def push(self, audio: Tensor) -> Tensor:
        """The output that needs no later input.

        Shape: audio [C, t] -> [C, t'], any t.
        """
        if self.source == self.target:
            return audio
        held = audio.new_zeros(audio.shape[0], self._reach) if self._held is None else self._held
        held = torch.cat([held, audio], -1)
        end = self._start + held.shape[-1]
        # Output n reaches floor(n * source / target) + reach + 1, which must be before `end`.
        ready = max(self._next, -(-(end - self._reach - 1) * self.target // self.source))
        return self._produce(held, ready)

    def flush(self, channels: int) -> Tensor:
        """The rest: ceil(T * target / source) samples in all for T samples of input.

        Shape: -> [channels, t'].
        """
        if self.source == self.target or self._held is None:
            return torch.zeros(channels, 0)
        end = self._start + self._held.shape[-1]
        held = torch.nn.functional.pad(self._held, (0, self._reach + 1))
        return self._produce(held, -(-end * self.target // self.source))

    def _produce(self, held: Tensor, ready: int) -> Tensor:
        n = torch.arange(self._next, ready)
        near = n * self.source // self.target
        windows = held[:, near[:, None] + self._taps - self._start]
        audio = torch.einsum("cnk,nk->cn", windows, self._weights[n % self.target])
        first = ready * self.source // self.target - self._reach  # the first sample that output `ready` needs
        self._held, self._start, self._next = held[:, first - self._start :].clone(), first, ready
        return audio


def mix_channels(audio: Tensor, channels: int) -> Tensor:
    """Mono is duplicated to stereo; more channels than wanted are averaged to mono, and that duplicated to stereo.

    Shape: audio [C, T] -> [channels, T].
    """
    if audio.shape[0] == channels:
        return audio
    return audio.mean(0, keepdim=True).expand(channels, -1)


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
