"""Decoding of any part of a file: by libsndfile, of the file as it is or of corrected views of it."""

import io
import os
import re
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.audio.channels import convert_channels
from codec.audio.files import UNSUPPORTED_SUFFIXES, conversion
from codec.audio.formats import (
    MpegFrames,
    inspect_au,
    inspect_caf,
    inspect_flac,
    inspect_nist,
    inspect_ogg,
    inspect_wav,
)
from codec.audio.formats.tags import id3_bytes
from codec.audio.formats.view import Finding, View, read_at
from codec.audio.resampling import resampled_length, resampling_filter
from codec.audio.source import AudioFileError

__all__ = ["Decoder", "decode_converted", "open_decoder"]

_BLOCK_FRAMES = 1 << 15  # read at a time, about a second
_MPEG_BLOCK_FRAMES = 1 << 18  # to decode a block, up to 30 frames of 1152 samples are decoded and dropped
_INSPECTIONS = (inspect_wav, inspect_flac, inspect_ogg, inspect_au, inspect_caf, inspect_nist)
# Orders of channels of Vorbis and Opus (Vorbis I specification, section 4.3.9).
_VORBIS_LAYOUTS = {
    3: "FL FC FR",
    5: "FL FC FR BL BR",
    6: "FL FC FR BL BR LFE",
    7: "FL FC FR SL SR BC LFE",
    8: "FL FC FR SL SR BL BR LFE",
}
# Files of phones and of videos, with any suffix: place and bytes of MP4 and its kin, and of WebM and Matroska.
_CONTAINERS = ((".mp4", 4, b"ftyp"), (".webm", 0, b"\x1aE\xdf\xa3"))
_MPEG_SUFFIXES = (b".mp3", b".mp2", b".mp1", b".mpga")
_MAX_KNOWN_BYTES = 0x7FFFF000  # a header with this length or more means that the length is unknown


class Decoder(Protocol):
    """Audio that can be decoded from any frame on.

    Attributes:
        sample_rate: In Hz.
        channels: Number of channels.
        layout: As in `AudioSource`.
        frames: Samples per channel.
        block_frames: A suitable number to decode at a time.
        notes: Sentences for the user.
    """

    sample_rate: int
    channels: int
    layout: Sequence[str] | None
    frames: int
    block_frames: int

    @property
    def notes(self) -> list[str]: ...

    def decode(self, start: int, stop: int) -> NDArray[np.float32]:
        """Frames [start, stop), or fewer at the end of the file.

        Shape: -> [t, C].

        Raises:
            AudioFileError: The frames do not decode.
        """

    def close(self) -> None:
        """Releases what the decoder has opened."""


def open_decoder(file: BinaryIO, name: str, path: bytes | None) -> Decoder:
    """Finds out what a file contains, and opens it.

    Args:
        file: Open and seekable. It must stay open, and the decoder does not close it.
        name: For messages.
        path: Of the file if it has one. libsndfile reads that faster than a Python file.

    Raises:
        AudioFileError: The file is not audio.
    """
    file_bytes = file.seek(0, io.SEEK_END)
    if file_bytes == 0:
        raise AudioFileError(name, "is empty")
    start = 0
    while tag := id3_bytes(read_at(file, start, 10)):
        start += tag
    for container, place, magic in _CONTAINERS:
        if read_at(file, place, len(magic)) == magic:
            raise AudioFileError(name, conversion(container))
    # libsndfile reads a path faster than a view. By a view it miscounts the samples behind an ID3 tag.
    whole = View(file, [(start, file_bytes)]) if start or path is None else path
    for inspect in _INSPECTIONS:
        if (finding := inspect(file, start, file_bytes)) is not None:
            return _open_finding(finding, whole, name)
    decoder, refused = None, None
    # MPEG audio may begin with anything. libmpg123 would print what it skips.
    suffix = os.path.splitext((path or b"").lower())[1]
    is_likely_mpeg = start > 0 or read_at(file, 0, 1) in (b"\xff", b"\0") or suffix in _MPEG_SUFFIXES
    if not is_likely_mpeg:
        try:
            decoder = _SoundFile(whole, name)
        except AudioFileError as error:
            refused = error
    if decoder is not None and not decoder.is_mpeg:
        return decoder
    if (mpeg := _open_mpeg(file, start, file_bytes, name)) is not None:
        return mpeg
    if refused is not None:
        raise refused
    return decoder or _SoundFile(whole, name)


def _open_mpeg(file: BinaryIO, start: int, file_bytes: int, name: str) -> Decoder | None:
    try:
        return _Mpeg(MpegFrames(file, start, file_bytes), name)
    except ValueError:
        return None


def _open_finding(finding: Finding, whole: bytes | View, name: str) -> Decoder:
    if finding.views is None:
        return _SoundFile(whole, name, finding)
    if len(finding.views) == 1:
        return _SoundFile(finding.views[0], name, finding)
    links, notes = [], list(finding.notes)
    for number, view in enumerate(finding.views, 1):
        try:
            links.append(_SoundFile(view, name, finding, number - 1))
        except AudioFileError as error:
            notes.append(f"Stream {number} of {len(finding.views)} is not read: {error.reason}.")
    if not links:
        raise AudioFileError(name, "none of its streams is audio that libsndfile can read")
    return _Chain(links, notes, name)


class _SoundFile:
    """A file that libsndfile decodes. See `Decoder`."""

    block_frames = _BLOCK_FRAMES

    def __init__(self, file: bytes | View, name: str, finding: Finding | None = None, stream: int = 0) -> None:
        try:
            self._file = soundfile.SoundFile(file)
        except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: ".raw" has no header
            suffix = os.path.splitext(name)[1].lower()
            reason = f"not audio that libsndfile can read ({_reason(error)})"
            raise AudioFileError(name, conversion(suffix) if suffix in UNSUPPORTED_SUFFIXES else reason) from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames
        self.is_mpeg = self._file.format == "MP3"
        self.layout: Sequence[str] | None = None if finding is None else finding.layout
        if self._file.format == "OGG" and self.channels in _VORBIS_LAYOUTS:
            self.layout = _VORBIS_LAYOUTS[self.channels].split()
        self.notes = finding.notes if finding is not None else _log_notes(self._file.extra_info, self.frames)
        self._name, self._position = name, 0
        self._last_seek = self.frames
        if self._file.subtype == "VORBIS" and finding is not None and finding.last_seeks:
            self._last_seek = min(self.frames, finding.last_seeks[stream])

    def decode(self, start: int, stop: int) -> NDArray[np.float32]:
        try:
            seekable = self._file.seekable()  # GSM and others are not: all that lies before is decoded
            if seekable and start != self._position:
                self._position = self._file.seek(min(start, self._last_seek))
            if start > self._position:
                self._position += len(self._file.read(start - self._position, dtype="float32"))
            self._position = -1  # unknown after an error
            samples: NDArray[np.float32] = self._file.read(stop - start, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioFileError(self._name, f"cannot be decoded at frame {start} ({_reason(error)})") from error
        self._position = start + len(samples)
        return samples

    def close(self) -> None:
        self._file.close()


class _Mpeg:
    """A file of MPEG audio. Every part is decoded as a stream of its own. See `Decoder`."""

    block_frames = _MPEG_BLOCK_FRAMES
    layout: Sequence[str] | None = None

    def __init__(self, mpeg: MpegFrames, name: str) -> None:
        self._mpeg, self._name = mpeg, name
        self.sample_rate, self.channels, self.frames = mpeg.sample_rate, mpeg.channels, mpeg.frames

    @property
    def notes(self) -> list[str]:
        return self._mpeg.notes

    def decode(self, start: int, stop: int) -> NDArray[np.float32]:
        part = self._mpeg.part(start, min(stop, self.frames))
        if not part.samples:
            return np.zeros((0, self.channels), np.float32)
        try:
            samples, _ = soundfile.read(io.BytesIO(part.stream), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioFileError(self._name, f"cannot be decoded at frame {start} ({_reason(error)})") from error
        wanted: NDArray[np.float32] = samples[part.dropped : part.dropped + part.samples]
        return wanted

    def close(self) -> None:
        pass


class _Chain:
    """Streams one after the other, converted to the rate and the channels of the first. See `Decoder`."""

    block_frames = _BLOCK_FRAMES

    def __init__(self, links: Sequence[_SoundFile], notes: list[str], name: str) -> None:
        self._links, self.notes = links, list(notes)
        first = links[0]
        self.sample_rate, self.channels, self.layout = first.sample_rate, first.channels, first.layout
        self._lengths = [resampled_length(link.frames, link.sample_rate, self.sample_rate) for link in links]
        self.frames = sum(self._lengths)
        for number, link in enumerate(links, 1):
            if link.channels not in (1, self.channels) and self.channels > 2:
                raise AudioFileError(
                    name, f"stream {number} of {len(links)} has {link.channels} channels, the first {self.channels}"
                )
            if (link.sample_rate, link.channels) != (first.sample_rate, first.channels):
                self.notes.append(
                    f"Stream {number} of {len(links)} has {link.channels} channels at {link.sample_rate} Hz. "
                    f"It is converted to the format of the first."
                )

    def decode(self, start: int, stop: int) -> NDArray[np.float32]:
        pieces = [np.zeros((0, self.channels), np.float32)]
        for link, length in zip(self._links, self._lengths, strict=True):
            first, last = max(0, start), min(stop, length)
            if first < last:
                audio = decode_converted(link, link.decode, self.sample_rate, self.channels, first, last)
                pieces.append(audio.T.numpy())
            start, stop = start - length, stop - length
        return np.concatenate(pieces)

    def close(self) -> None:
        for link in self._links:
            link.close()


def decode_converted(
    source: Decoder,
    decode: Callable[[int, int], NDArray[np.float32]],
    sample_rate: int,
    channels: int,
    start: int,
    stop: int,
) -> Tensor:
    """Samples [start, stop) at another rate and with other channels; only what they depend on is decoded.

    Args:
        source: What `decode` decodes.
        decode: As `Decoder.decode`.
        sample_rate: Of the result in Hz, in which `start` and `stop` are counted.
        channels: Of the result.
        start, stop: Within the audio.

    Shape: -> [channels, stop - start].
    """
    filter_ = resampling_filter(source.sample_rate, sample_rate)
    first, last = filter_.input_range(start, stop)
    first, last = max(0, first), min(source.frames, last)
    audio = torch.from_numpy(np.ascontiguousarray(decode(first, last).T))
    return filter_(convert_channels(audio, channels, source.layout), first, start, stop).contiguous()


def _log_notes(log: str, frames: int) -> list[str]:
    """What libsndfile logs about lengths, for formats that are not inspected here: AIFF, W64, VOC, AVR and others."""
    log = re.split(r"^Length *:", log, maxsplit=1, flags=re.MULTILINE)[-1]  # the name of the file stands before it
    for stated, found in re.findall(r"(?:FORM|RIFF|riff|SSND|data) *: *(\d+) \(should be (\d+)\)", log):
        if int(found) < int(stated) < _MAX_KNOWN_BYTES:
            return [f"The end of the file is missing: it has {found} bytes, its header states {stated}."]
    stated_frames = re.search(r"^ *Frames *: (\d+)$", log, re.MULTILINE)
    if stated_frames is not None and int(stated_frames[1]) > frames:
        return [f"The audio ends after {frames} of the {stated_frames[1]} samples that its header states."]
    if "truncated" in log:
        return [f"The end of the file is missing: it has {frames} samples, fewer than its header states."]
    return []


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
