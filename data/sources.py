"""The files of one source, read as one long recording."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from codec.audio import AudioFile, AudioFileError, read_range, readable, resampled_length
from data.entries import DataError
from data.manifest import Manifest

__all__ = ["SourceReader", "join_pieces", "level_dbfs", "limit_peak", "read_piece"]

_MAX_PIECES = 64  # files joined for one segment
_FADE_SECONDS = 0.005


class SourceReader:
    """Cuts segments from files laid end to end in the manifest's order; a position among them is in [0, 1).

    A uniform position hits a file in proportion to its duration and weight. A segment lies within one file if that is
    long enough. A shorter file (a word, a drum hit) is followed by the next ones in the manifest, with fades of 5 ms at
    the joins. It is not padded with zeros, because half of what a codec learns from would then be silence.

    Args:
        manifest: Entries of one source.
        sample_rate: Rate of the segments in Hz.
        channels: Channels of the segments.
        weights: Of each entry, by which its duration is multiplied; None is 1 for all.

    Raises:
        DataError: The manifest has no entries, or all of them have the weight 0.
    """

    def __init__(
        self, manifest: Manifest, sample_rate: int, channels: int, weights: Sequence[float] | None = None
    ) -> None:
        if not manifest.entries:
            raise DataError(f"{readable(manifest.root)}: no files to read segments from")
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.channels = channels
        self._lengths = np.array(
            [resampled_length(entry.frames, entry.sample_rate, sample_rate) for entry in manifest.entries]
        )
        self._spans = self._lengths * np.array(1.0 if weights is None else weights)
        self._ends = np.cumsum(self._spans)
        if not self._ends[-1]:
            raise DataError(f"{readable(manifest.root)}: all files of a source have the weight 0")

    def file_at(self, position: float) -> str:
        """Path of the file at a position."""
        return self.manifest.path(self.manifest.entries[self._locate(position)[0]])

    def read(self, position: float, samples: int) -> Tensor:
        """Reads the segment at a position.

        Shape: -> [channels, samples].

        Raises:
            AudioFileError: A file that the segment needs cannot be decoded.
        """
        file, offset = self._locate(position)
        length = int(self._lengths[file])
        if length >= samples:
            return self._read_piece(file, int(offset * (length - samples + 1)), samples)
        return self._read_joined(file, int(offset * length), samples)

    def _locate(self, position: float) -> tuple[int, float]:
        """The file at a position, and the offset in that file in [0, 1)."""
        sample = position * float(self._ends[-1])
        file = min(int(np.searchsorted(self._ends, sample, side="right")), len(self._ends) - 1)
        span = float(self._spans[file])
        return file, min(max((sample - (float(self._ends[file]) - span)) / span, 0.0), 1.0 - 2**-40)

    def _read_piece(self, file: int, start: int, samples: int) -> Tensor:
        path = self.manifest.path(self.manifest.entries[file])
        audio = read_range(path, self.sample_rate, self.channels, start, start + samples)
        if audio.shape[-1] < min(samples, int(self._lengths[file]) - start):
            raise AudioFileError(path, "is shorter than the manifest states")
        return limit_peak(audio)

    def _read_joined(self, file: int, start: int, samples: int) -> Tensor:
        count = len(self._lengths)
        following = ((file + step) % count for step in range(1, _MAX_PIECES))

        def read(missing: int) -> Tensor | None:
            index = next(following, None)
            return None if index is None else self._read_piece(index, 0, min(missing, int(self._lengths[index])))

        first = self._read_piece(file, start, int(self._lengths[file]) - start)
        return join_pieces(first, read, samples, self.sample_rate)


def join_pieces(first: Tensor, read: Callable[[int], Tensor | None], samples: int, sample_rate: int) -> Tensor:
    """Pieces of audio one after the other, with fades of 5 ms at the joins.

    Args:
        first: The first piece, of at most `samples` samples. It is changed.
        read: Given the number of samples that are missing, returns the next piece [C, t] with at most as many, or None
            if there is no other. The pieces are then repeated.
        samples: T, length of the result.
        sample_rate: In Hz.

    Shape: [C, t] -> [C, T].
    """
    pieces: list[Tensor] = []
    missing = samples
    piece: Tensor | None = first
    while piece is not None:
        missing -= piece.shape[-1]
        _fade(piece, round(_FADE_SECONDS * sample_rate), fade_in=bool(pieces), fade_out=missing > 0)
        pieces.append(piece)
        piece = read(missing) if missing else None
    audio = torch.cat(pieces, dim=-1)
    return audio.repeat(1, math.ceil(samples / audio.shape[-1]))[:, :samples]


def read_piece(file: AudioFile, sample_rate: int, channels: int, position: float, samples: int) -> Tensor:
    """Samples of an open file, as many as asked for if it has them.

    Args:
        sample_rate, channels: Of the result.
        position: In [0, 1). Of a file that is long enough, 0 is the first segment and almost 1 the last. Of a shorter
            one, it is where the piece starts, which reaches to the end.
        samples: At the rate of the result.

    Shape: -> [channels, t].

    Raises:
        AudioFileError: The file has no audio, or it does not decode.
    """
    length = resampled_length(file.frames, file.sample_rate, sample_rate)
    if not length:
        raise AudioFileError(file.name, "has no audio")
    start = int(position * (length - samples + 1 if length >= samples else length))
    return limit_peak(file.read_converted(sample_rate, channels, start, min(start + samples, length)))


def _fade(piece: Tensor, samples: int, fade_in: bool, fade_out: bool) -> None:
    length = min(samples, piece.shape[-1])
    ramp = torch.arange(length) / max(length, 1)
    if fade_in:
        piece[:, :length] *= ramp
    if fade_out:
        piece[:, piece.shape[-1] - length :] *= ramp.flip(0)


def limit_peak(audio: Tensor) -> Tensor:
    """Scales audio that exceeds 1, such as the overshoot of lossy formats, to a peak of 1; other audio is unchanged.

    Shape: [C, T] -> [C, T].
    """
    peak = float(audio.abs().max()) if audio.numel() else 0.0
    return audio / peak if peak > 1 else audio


def level_dbfs(audio: Tensor) -> float:
    """Root mean square over all channels in dB: 0 for a square wave of amplitude 1, -inf for silence.

    Shape: [C, T] -> number.
    """
    power = float(audio.double().square().mean()) if audio.numel() else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf
