"""The files of one source, read as one long recording."""

import math

import numpy as np
import torch
from torch import Tensor

from codec.audio import AudioFileError, read_range, readable, resampled_length
from data.entries import DataError
from data.manifest import Manifest

__all__ = ["SourceReader", "level_dbfs", "limit_peak"]

_MAX_PIECES = 64  # files joined for one segment
_FADE_SECONDS = 0.005


class SourceReader:
    """Cuts segments from files laid end to end in the manifest's order; a position among them is in [0, 1).

    A uniform position hits a file in proportion to its duration. A segment lies within one file if that is long enough.
    A shorter file (a word, a drum hit) is followed by the next ones in the manifest, with fades of 5 ms at the joins.
    It is not padded with zeros, because half of what a codec learns from would then be silence.

    Args:
        manifest: Entries of one source.
        sample_rate: Rate of the segments in Hz.
        channels: Channels of the segments.

    Raises:
        DataError: The manifest has no entries.
    """

    def __init__(self, manifest: Manifest, sample_rate: int, channels: int) -> None:
        if not manifest.entries:
            raise DataError(f"{readable(manifest.root)}: no files to read segments from")
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.channels = channels
        self._lengths = np.array(
            [resampled_length(entry.frames, entry.sample_rate, sample_rate) for entry in manifest.entries]
        )
        self._ends = np.cumsum(self._lengths)

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
        length = float(self._lengths[file])
        return file, min(max((sample - (float(self._ends[file]) - length)) / length, 0.0), 1.0 - 2**-40)

    def _read_piece(self, file: int, start: int, samples: int) -> Tensor:
        path = self.manifest.path(self.manifest.entries[file])
        audio = read_range(path, self.sample_rate, self.channels, start, start + samples)
        if audio.shape[-1] < min(samples, int(self._lengths[file]) - start):
            raise AudioFileError(path, "is shorter than the manifest states")
        return limit_peak(audio)

    def _read_joined(self, file: int, start: int, samples: int) -> Tensor:
        pieces: list[Tensor] = []
        missing = samples
        for step in range(_MAX_PIECES):
            index = (file + step) % len(self._lengths)
            piece = self._read_piece(index, start, min(missing, int(self._lengths[index]) - start))
            missing -= piece.shape[-1]
            self._fade(piece, fade_in=step > 0, fade_out=missing > 0)
            pieces.append(piece)
            start = 0
            if not missing:
                break
        audio = torch.cat(pieces, dim=-1)
        # Samples are missing after that many pieces only if the files have a few samples each: repeat what there is.
        return audio.repeat(1, math.ceil(samples / audio.shape[-1]))[:, :samples]

    def _fade(self, piece: Tensor, fade_in: bool, fade_out: bool) -> None:
        length = min(round(_FADE_SECONDS * self.sample_rate), piece.shape[-1])
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
