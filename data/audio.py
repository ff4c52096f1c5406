"""Samples in and out of files: partial reads, resampling, channel conversion, levels.

Anything libsndfile decodes is read through `soundfile`. Resampling is a windowed-sinc polyphase filter (Crochiere
and Rabiner, Multirate Digital Signal Processing, 1983) with a Kaiser window: flat within 0.01 dB up to 90 % of the
lower of the two Nyquist frequencies, aliases and images 80 dB down.
"""

import math
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

__all__ = [
    "AudioHeader",
    "DataError",
    "UnreadableAudio",
    "convert_channels",
    "level_dbfs",
    "limit_peak",
    "read_audio",
    "read_header",
    "read_resampled",
    "resample",
    "resampled_frames",
    "write_wav",
]

# Kaiser: the transition band is (A - 7.95) / (2.285 * 2 * pi * 64) of Nyquist for A dB of attenuation and a window of
# 64 periods a side, 0.09 for 90 dB: centred at 0.95, flat to 0.905 and fully closed at 0.995 of Nyquist. torchaudio
# counts the zero crossings of a sinc of that cutoff, which makes the window 5 % longer.
_ZERO_CROSSINGS = 64
_CUTOFF = 0.95
_BETA = 0.1102 * (90.0 - 8.7)
_PERIODS = math.ceil(_ZERO_CROSSINGS / _CUTOFF)
_TABLE_LIMIT = 1 << 20  # weights for one pair of rates, 4 MB: larger tables are slower than scipy, which has none

_UNKNOWN_LENGTH = 2**62  # libsndfile reports 2**63 - 1 frames where the file does not state its length
_FRAMES_PER_BYTE = 8192  # FLAC's longest block of pure silence is below 65535 frames in 12 bytes


class DataError(ValueError):
    """Something is wrong with the data a user gave: one sentence, meant to be read without a traceback."""


class UnreadableAudio(DataError):
    """One file cannot be used.

    Args:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["UnreadableAudio"], tuple[str, str]]:
        return UnreadableAudio, (self.path, self.reason)


class AudioHeader(NamedTuple):
    """What a file says of itself."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples per channel


def _open(path: str | os.PathLike[str]) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(os.fspath(path))
    except FileNotFoundError as error:
        raise UnreadableAudio(path, "no such file") from error
    except (RuntimeError, OSError, TypeError) as error:  # TypeError: headerless ".raw" files want parameters
        reason = "no such file" if not os.path.exists(path) else "not audio that libsndfile can read"
        raise UnreadableAudio(path, reason) from error


def _decode(file: soundfile.SoundFile, path: str | os.PathLike[str], start: int, frames: int) -> Tensor:
    """Shape: -> [C, frames]"""
    try:
        file.seek(start)
        samples = file.read(frames, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise UnreadableAudio(path, f"cannot be decoded at frame {start}") from error
    if len(samples) < frames:
        raise UnreadableAudio(path, f"ends at frame {start + len(samples)}, its header promises {file.frames}")
    audio = torch.from_numpy(np.ascontiguousarray(samples.T))
    if not _finite(audio):
        raise UnreadableAudio(path, f"holds NaN or infinite samples after frame {start}")
    return audio


def _finite(audio: Tensor) -> bool:
    """The maximum of an array with a NaN is NaN; NumPy, as torch would wake its threads for a few thousand samples."""
    return audio.numel() == 0 or math.isfinite(float(np.abs(audio.numpy()).max()))


def read_header(path: str | os.PathLike[str]) -> AudioHeader:
    """Reads rate, channels and length, not the samples.

    Raises:
        UnreadableAudio: the file does not open, or states no believable length.
    """
    with _open(path) as file:
        header = AudioHeader(file.samplerate, file.channels, file.frames)
    if header.frames >= _UNKNOWN_LENGTH:
        raise UnreadableAudio(path, "does not state its length")
    if header.frames > _FRAMES_PER_BYTE * os.path.getsize(path):
        raise UnreadableAudio(path, f"promises {header.frames} frames, more than its size can hold")
    return header


def read_audio(path: str | os.PathLike[str], start_frame: int = 0, frames: int | None = None) -> tuple[Tensor, int]:
    """Reads part of a file as it is, seeking rather than decoding what lies before.

    Args:
        path: any file libsndfile decodes.
        start_frame: first frame, counted in the file's own rate.
        frames: how many; None for all that follow.

    Shape: -> audio [C, T], sample rate in Hz

    Raises:
        UnreadableAudio: the file does not decode there, is shorter, or holds non-finite samples.
    """
    with _open(path) as file:
        wanted = file.frames - start_frame if frames is None else frames
        return _decode(file, path, start_frame, wanted), file.samplerate


def _ratio(from_rate: int, to_rate: int) -> tuple[int, int]:
    divisor = math.gcd(from_rate, to_rate)
    return to_rate // divisor, from_rate // divisor


@lru_cache(maxsize=8)
def _resampler(up: int, down: int) -> Callable[[Tensor], Tensor]:
    """Shape: [C, T] -> [C, ceil(T * up / down)]"""
    taps = down + 2 * _PERIODS * max(up, down) // up
    if up * taps <= _TABLE_LIMIT:
        return Resample(down, up, "sinc_interp_kaiser", _ZERO_CROSSINGS, _CUTOFF, beta=_BETA)  # ten times as fast
    # Rates with no common divisor to speak of. scipy takes most of a second to import.
    from scipy.signal import firwin, resample_poly

    widest = max(up, down)
    window = firwin(2 * _PERIODS * widest + 1, _CUTOFF / widest, window=("kaiser", _BETA)).astype(np.float32)
    return lambda audio: torch.from_numpy(resample_poly(audio.numpy(), up, down, axis=-1, window=window))


def resampled_frames(frames: int, from_rate: int, to_rate: int) -> int:
    """How many frames `resample` makes of `frames`: the ceiling of frames * to_rate / from_rate."""
    up, down = _ratio(from_rate, to_rate)
    return -(-frames * up // down)


def resample(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Changes the sample rate with the filter of this module, in float32; the same tensor where the rates agree.

    Args:
        audio: samples; silence is assumed before and after.
        from_rate: Hz.
        to_rate: Hz.

    Shape: [C, T] -> [C, ceil(T * to_rate / from_rate)]
    """
    up, down = _ratio(from_rate, to_rate)
    if up == down or audio.shape[-1] == 0:
        return audio
    return _resampler(up, down)(audio.float()).to(audio.dtype)


def read_resampled(
    path: str | os.PathLike[str], sample_rate: int, start: int, frames: int, channels: int | None = None
) -> Tensor:
    """Reads frames [start, start + frames) of the resampled file, without resampling the rest of it.

    The result is that slice of `resample` applied to the whole file, since the read covers the filter's reach on both
    sides and begins where the two sample grids meet: output frame o lies at input frame o * down / up, so at multiples
    of `down`.

    Args:
        path: any file libsndfile decodes.
        sample_rate: Hz of the result.
        start: first frame, counted at `sample_rate`.
        frames: how many at most; fewer come back where the file ends.
        channels: of the result, converted before the costlier resampling; None for the file's own.

    Shape: -> [C, T] with 0 < T <= frames

    Raises:
        UnreadableAudio: as `read_audio`, or `start` lies past the end.
    """
    with _open(path) as file:
        up, down = _ratio(file.samplerate, sample_rate)
        stop = min(start + frames, resampled_frames(file.frames, file.samplerate, sample_rate))
        if stop <= start:
            raise UnreadableAudio(path, f"ends before {start / sample_rate:.3f} s")
        channels = channels or file.channels
        if up == down:
            return convert_channels(_decode(file, path, start, stop - start), channels)
        reach = _PERIODS * max(up, down) // up + 1
        grid = max(0, start * down // up - reach) // down
        first, last = grid * down, min(file.frames, stop * down // up + reach + 1)
        audio = convert_channels(_decode(file, path, first, last - first), channels)
        audio = resample(audio, file.samplerate, sample_rate)
    audio = audio[:, start - grid * up : stop - grid * up].contiguous()
    if not _finite(audio):
        raise UnreadableAudio(path, "holds samples too large for 32-bit floats to filter")
    return audio


def convert_channels(audio: Tensor, channels: int) -> Tensor:
    """To mono the mean, to fewer channels the first ones (front left and right in WAV), to more by repeating them.

    Shape: [C, T] -> [channels, T]
    """
    present = audio.shape[0]
    if channels == present:
        return audio
    if channels == 1:
        return audio.mean(dim=0, keepdim=True)
    return audio[torch.arange(channels) % present]


def limit_peak(audio: Tensor) -> Tensor:
    """Scales audio that exceeds 1 down to a peak of 1, as lossy decoders overshoot; quieter audio is untouched.

    Shape: [C, T] -> [C, T]
    """
    peak = float(audio.abs().max()) if audio.numel() else 0.0
    return audio / peak if peak > 1 else audio


def level_dbfs(audio: Tensor) -> float:
    """Root mean square over all channels in dB, 0 for a square wave of amplitude 1; -inf for silence.

    Shape: [C, T] -> number
    """
    power = float(audio.double().square().mean()) if audio.numel() else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def write_wav(path: str | os.PathLike[str], audio: Tensor, sample_rate: int) -> None:
    """Writes 16-bit PCM, clipped to [-1, 1], creating the folder.

    Shape: audio [C, T]
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    samples = audio.detach().float().clamp(-1, 1).cpu().numpy().T
    soundfile.write(os.fspath(path), samples, sample_rate, format="WAV", subtype="PCM_16")
