"""Frames of MPEG-1, 2 and 2.5 audio (ISO 11172-3, 13818-3): MP3, which is Layer III, and MP2 and MP1.

libmpg123, with which libsndfile decodes them, estimates the length of a file without a Xing frame from its first frame.
After a seek it decodes too few frames, prints errors, and returns wrong samples. Here the frames are counted, and a
part of a file becomes a stream of its own. It begins with frames whose samples are dropped: some are needed for their
bytes only (the bit reservoir of Layer III), and the last two set the state of the decoder. Equal samples then have
equal bits in every part, because a part begins at a multiple of 8 frames, after which the decoder's ring buffer is in
the same phase.
"""

import re
import struct
from array import array
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from codec.audio.formats.mpeg_header import frame_bytes, parse_header, silent_frame, smallest_frame, xing_frame
from codec.audio.formats.tags import audio_end, id3_bytes
from codec.audio.formats.view import read_at

__all__ = ["MpegFrames", "MpegPart"]

_DECODER_DELAY = 529  # samples; libmpg123 drops them if there is a Xing frame
_PHASE_FRAMES = 8
_RESERVOIR_BYTES = 511
_CHUNK_BYTES = 1 << 20
_SYNC_SEARCH_BYTES = 1 << 16  # without a frame: then this is no MP3


class MpegPart(NamedTuple):
    """A part of a file."""

    stream: bytes  # for libsndfile, of `dropped + samples` samples
    dropped: int  # samples at its start that are wrong
    samples: int  # fewer than asked for if the file ends before


class MpegFrames:
    """The frames of an MP3, MP2 or MP1 file.

    Attributes:
        sample_rate, channels: Of all frames.
        frames: Samples per channel that decode.
        notes: Sentences for the user.

    Args:
        file: Seekable.
        start: Where audio may begin, behind ID3 tags.
        file_bytes: Size of the file.

    Raises:
        ValueError: There are no frames.
    """

    def __init__(self, file: BinaryIO, start: int, file_bytes: int) -> None:
        self._file = file
        self._stop = audio_end(file, start, file_bytes)
        self._starts, self._sizes = array("Q"), array("H")
        self._chunk, self._chunk_start = b"", 0
        self._position, self._lost, self._is_cut = start, 0, False
        self._header = 0
        self._known: dict[int, int] = {}  # bytes of a frame by the upper 26 bits of its header; 0 for other kinds
        self._find_first(start)
        format_ = parse_header(self._header)
        assert format_ is not None
        self._format = format_
        self.sample_rate, self.channels = format_.sample_rate, format_.channels
        self._stated, is_trusted, delay, padding = self._read_xing()
        if not is_trusted:
            self._walk(1 << 62)
        samples = (self._stated if is_trusted else len(self._starts)) * format_.samples
        self._delay = 0 if delay is None or delay + padding >= samples else delay + _DECODER_DELAY
        self.frames = samples - self._delay
        if self._delay:
            self.frames = max(0, min(self.frames, samples - padding - self._delay + _DECODER_DELAY))

    @property
    def notes(self) -> list[str]:
        notes = []
        if self._is_cut:
            notes.append("The end of the file is missing: its last frame is cut.")
        elif self._position >= self._stop and len(self._starts) < self._stated:
            notes.append(f"The file has {len(self._starts)} of the {self._stated} frames that its header states.")
        if self._lost:
            notes.append(f"{self._lost} bytes between its frames are no audio of {self.sample_rate} Hz.")
        return notes

    def part(self, start: int, stop: int) -> MpegPart:
        """The stream from which samples [start, stop) decode."""
        size = self._format.samples
        first = (start + self._delay) // size
        self._walk(-(-(stop + self._delay) // size))
        last = min(-(-(stop + self._delay) // size), len(self._starts))
        available = min(stop, last * size - self._delay) - start
        if available <= 0:
            return MpegPart(b"", 0, 0)
        if self._format.layer < 3:
            return self._plain_part(first, last, start - first * size, available)
        begin, exact = self._warm_up(first)
        silent = 0 if begin else _PHASE_FRAMES
        stream = [xing_frame(self._header, silent + last - begin), silent_frame(self._header) * silent]
        stream.extend(self._decodable(begin, exact, last))
        dropped = (silent + first - begin) * size - _DECODER_DELAY + start + self._delay - first * size
        return MpegPart(b"".join(stream), dropped, available)

    def _plain_part(self, first: int, last: int, dropped: int, available: int) -> MpegPart:
        """A part of Layer I or II, whose frames are decoded one by one.

        libmpg123 estimates the length from the first frame. That is the smallest one, so the estimate is not too short.
        """
        begin = max(0, first - 2)
        begin -= begin % _PHASE_FRAMES
        silent = smallest_frame(self._header)
        frames = (read_at(self._file, self._starts[index], self._sizes[index]) for index in range(begin, last))
        stream = b"".join([silent * _PHASE_FRAMES, *frames, silent])
        return MpegPart(stream, (_PHASE_FRAMES + first - begin) * self._format.samples + dropped, available)

    def _decodable(self, begin: int, exact: int, last: int) -> Iterator[bytes]:
        """Frames [begin, last). Those before `exact`, and those that refer to missing bytes, are made silent."""
        index, reservoir = begin, 0
        while index < last:
            follows = index > 0 and self._starts[index] == self._starts[index - 1] + self._sizes[index - 1]
            reservoir = reservoir if follows else 0
            if index >= exact and reservoir >= _RESERVOIR_BYTES:
                stop = self._end_of_run(index, last)
                yield read_at(
                    self._file,
                    self._starts[index],
                    self._starts[stop - 1] + self._sizes[stop - 1] - self._starts[index],
                )
                index = stop
                continue
            frame = read_at(self._file, self._starts[index], self._sizes[index])
            side = 4 if frame[1] & 1 else 6  # behind a checksum
            bits = 9 if self._format.is_mpeg1 else 8
            back = int.from_bytes(frame[side : side + 2], "big") >> 16 - bits
            if index < exact or back > reservoir:
                head = frame[:1] + bytes([frame[1] | 1]) + frame[2:4]
                back_field = struct.pack(">H", min(back, reservoir) << 16 - bits)
                audio = side + self._format.side_bytes
                yield head + back_field + bytes(audio - 6) + frame[audio:]
            else:
                yield frame
            reservoir += len(frame) - side - self._format.side_bytes
            index += 1

    def _end_of_run(self, index: int, last: int) -> int:
        """The frame before which the bytes of the file are interrupted, or `last`."""
        if self._starts[last - 1] - self._starts[index] == sum(self._sizes[index : last - 1]):
            return last
        while index + 1 < last and self._starts[index + 1] == self._starts[index] + self._sizes[index]:
            index += 1
        return index + 1

    def _warm_up(self, first: int) -> tuple[int, int]:
        """The frame to begin with, and the frame from which on all are decoded, for audio from frame `first` on."""
        exact = begin = max(0, first - 2)
        reservoir = 0
        while begin and reservoir < _RESERVOIR_BYTES:
            begin -= 1
            reservoir += max(0, self._sizes[begin] - 6 - self._format.side_bytes)
        begin -= begin % _PHASE_FRAMES
        return begin, exact if begin else 0

    def _find_first(self, start: int) -> None:
        """Finds the first frame: other frames of its kind follow, or it ends the file."""
        data = read_at(self._file, start, min(_SYNC_SEARCH_BYTES + 8192, self._stop - start))
        position = -1
        while (position := data.find(b"\xff", position + 1)) >= 0 and position < _SYNC_SEARCH_BYTES:
            header = int.from_bytes(data[position : position + 4], "big")
            if not parse_header(header):
                continue
            self._header, self._known = header, {}
            at, count = position, 0
            while count < 4 and (size := self._size_of(int.from_bytes(data[at : at + 4], "big"))):
                at, count = at + size, count + 1
            if count == 4 or (count and start + at == self._stop) or (count > 1 and start + at > self._stop):
                self._position = start + position
                return
        raise ValueError("no frames of MPEG audio")

    def _size_of(self, header: int) -> int:
        """Bytes of a frame; 0 if it is none, or differs from the first in version, rate or number of channels."""
        key = header >> 6
        if (size := self._known.get(key)) is None:
            format_ = parse_header(header)
            size = frame_bytes(header) if format_ is not None and format_ == parse_header(self._header) else 0
            self._known[key] = size
        return size

    def _walk(self, count: int) -> None:
        """Finds the first `count` frames, or all there are."""
        position, stop, known = self._position, self._stop, self._known
        starts, sizes = self._starts, self._sizes
        while len(starts) < count and position + 4 <= stop and not self._is_cut:
            at = position - self._chunk_start
            if not 0 <= at <= len(self._chunk) - 4:
                self._chunk = read_at(self._file, position, min(_CHUNK_BYTES, stop - position))
                self._chunk_start, at = position, 0
                if len(self._chunk) < 4:
                    break
            header = int.from_bytes(self._chunk[at : at + 4], "big")
            size = known.get(header >> 6)
            if size is None:
                size = self._size_of(header)
            if not size:
                position = self._skip_junk(position)
            elif position + size > stop:
                self._is_cut = True
            else:
                starts.append(position)
                sizes.append(size)
                position += size
        self._position = position

    def _skip_junk(self, position: int) -> int:
        """Where the next two frames begin that follow each other, or the end."""
        tag = id3_bytes(read_at(self._file, position, 10))
        if tag:
            return min(position + tag, self._stop)
        search = position + 1
        version = self._header >> 16 & 0xFE  # the second byte, with or without a checksum
        sync = re.compile(b"\xff[" + re.escape(bytes([version])) + re.escape(bytes([version | 1])) + b"]..", re.DOTALL)
        while search + 4 <= self._stop:
            data = read_at(self._file, search, min(_CHUNK_BYTES, self._stop - search))
            for found in sync.finditer(data):
                at, size = search + found.start(), self._size_of(int.from_bytes(found[0], "big"))
                if size and (at + size >= self._stop or self._size_of(self._header_at(at + size))):
                    self._lost += at - position
                    return at
            search += max(1, len(data) - 3)
        self._lost += self._stop - position
        return self._stop

    def _header_at(self, position: int) -> int:
        return int.from_bytes(read_at(self._file, position, 4), "big")

    def _read_xing(self) -> tuple[int, bool, int | None, int]:
        """What the first frame states if it is a Xing frame: number of frames, whether it is right, delay and padding.

        The number is right if the stated number of bytes is there. Without a Xing frame the delay is None.
        """
        if self._format.layer < 3:
            return 0, False, None, 0
        first = self._position
        frame = read_at(self._file, first, frame_bytes(self._header))
        side = 4 if frame[1] & 1 else 6
        at = next((at for at in {side, 4} if frame[at + self._format.side_bytes :][:4] in (b"Xing", b"Info")), None)
        if at is None:
            return 0, False, None, 0
        at += self._format.side_bytes + 8
        flags = int.from_bytes(frame[at - 4 : at], "big")
        stated = []
        for bit, length in ((1, 4), (2, 4), (4, 100), (8, 4)):
            stated.append(int.from_bytes(frame[at : at + 4], "big") if flags & bit else 0)
            at += length if flags & bit else 0
        gaps = int.from_bytes(frame[at + 21 : at + 24], "big") if frame[at : at + 1].strip(b"\0") else 0
        self._position += len(frame)
        is_whole = flags & 3 == 3 and stated[1] == self._stop - first
        return stated[0], is_whole, gaps >> 12, gaps & 0xFFF
