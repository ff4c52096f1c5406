"""Tar archives of audio in the layout of WebDataset, on this machine or at any address that fsspec opens."""

import glob
import io
import itertools
import os
import re
import tarfile
import weakref
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, BinaryIO

import fsspec
from annotated_types import MinLen
from torch import Tensor

from codec.audio import AUDIO_SUFFIXES, AudioFile, AudioFileError
from codec.ranges import Count, Name, Weights
from data.entries import DataError
from data.manifest import Manifest
from data.segments import SILENCE_DBFS, Segment, numpy_generator
from data.sources import join_pieces, level_dbfs, read_piece

__all__ = ["TarDataset", "expand_address"]

_STREAM = 2 << 32  # of random numbers; those below belong to other datasets and to transforms


class TarDataset:
    """Segments from tar archives, each read from start to end; an `IterableTrainingDataset`.

    The archives of a reader follow in a random order that differs in each pass. Several are open at once, and each
    segment is of a random one of them, so neighbours in an archive do not share a batch. An archive is opened only when
    it is needed. The state has, for each open archive, the offset of the next file. So a resumed run does not read
    again what it has read.

    Members that are not audio (`000123.json`) are passed over. Audio shorter than a segment is joined with what follows
    it. Silence below -60 dBFS is left out. Files and archives that are damaged are reported.

    Args:
        shards: Addresses: paths, with `*` or numbers as in `train-{0000..0127}.tar`, or what fsspec opens, such as
            `s3://bucket/train-{0000..0127}.tar` with the package s3fs.
        sample_rate, channels: Of the segments.
        segment_seconds: Length of each segment.
        seed: Any number >= 0.
        open_shards: Archives that a reader has open at once.
        segments_per_file: Segments that are drawn from a file before the next one is read.
        manifest, source_weights: Not used; data sets with files by name have them.
        index, num_shards: This reader and the number of readers; set by `shard`.

    Raises:
        DataError: An archive on this machine is missing, or a number is out of range.
    """

    def __init__(
        self,
        shards: Name | Annotated[Sequence[Name], MinLen(1)],
        sample_rate: int,
        channels: int,
        segment_seconds: float,
        seed: int = 0,
        open_shards: Count = 4,
        segments_per_file: Count = 1,
        manifest: Manifest | None = None,
        source_weights: Weights | None = None,
        *,
        index: int = 0,
        num_shards: int = 1,
    ) -> None:
        self.segment_samples = round(segment_seconds * sample_rate)
        if min(self.segment_samples, open_shards, segments_per_file) < 1 or seed < 0:
            raise DataError(
                "expected segments of at least one sample, open_shards and segments_per_file >= 1, seed >= 0, "
                f"got {segment_seconds} s, {open_shards}, {segments_per_file} and {seed}"
            )
        patterns = [shards] if isinstance(shards, str) else list(shards)
        self.addresses = list(itertools.chain.from_iterable(map(expand_address, patterns)))
        self.sample_rate, self.channels, self.seed = sample_rate, channels, seed
        self.open_shards, self.segments_per_file = open_shards, segments_per_file
        self.index, self.num_shards = index, num_shards
        self._pass = 0
        self._count = 0  # of segments so far, in all passes
        self._next = 0  # place of the next archive in the order of this pass
        self._open: list[_Archive] = []
        self._skipped: list[str] = []  # not reported yet

    def shard(self, num_shards: int, index: int) -> "TarDataset":
        """As in `IterableTrainingDataset`.

        Raises:
            DataError: There are fewer archives than readers.
        """
        if num_shards > len(self.addresses):
            raise DataError(
                f"{len(self.addresses)} tar archives cannot be shared by {num_shards} readers (data.num_workers times "
                "the number of processes): lower data.num_workers, or write more archives"
            )
        return TarDataset(
            self.addresses,
            self.sample_rate,
            self.channels,
            self.segment_samples / self.sample_rate,
            self.seed,
            self.open_shards,
            self.segments_per_file,
            index=index,
            num_shards=num_shards,
        )

    def __iter__(self) -> Iterator[Segment]:
        """Shape: audio [C, T] each.

        Raises:
            DataError: There is no audio at all.
        """
        order = self._order()
        while True:
            while len(self._open) < self.open_shards and self._next < len(order):
                self._open.append(_Archive(self.addresses[order[self._next]], order[self._next]))
                self._next += 1
            if not self._open:
                break
            random = numpy_generator(self.seed, self._count, stream=_STREAM + self.index)
            archive = self._open[int(random.integers(len(self._open)))]
            audio = self._read(archive, random.random())
            if audio is None:
                self._open.remove(archive)
                continue
            self._count += 1
            if level_dbfs(audio) >= SILENCE_DBFS:
                skipped, self._skipped = tuple(self._skipped), []
                yield Segment(audio, skipped_files=skipped)
        if not self._count:
            example = f", for example {self._skipped[0]}" if self._skipped else ""
            raise DataError(f"none of {len(order)} tar archives has audio that can be used{example}")
        self._pass += 1
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        """As in `IterableTrainingDataset`."""
        places = [[archive.number, archive.offset, archive.drawn] for archive in self._open]
        return {"pass": self._pass, "count": self._count, "next": self._next, "open": places}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._pass, self._count, self._next = state["pass"], state["count"], state["next"]
        self._open = [_Archive(self.addresses[number], number, *place) for number, *place in state["open"]]

    def _order(self) -> list[int]:
        """Numbers of this reader's archives in the order of this pass."""
        numbers = range(self.index, len(self.addresses), self.num_shards)
        random = numpy_generator(self.seed, self._pass, attempt=1, stream=_STREAM + self.index)
        return [numbers[place] for place in random.permutation(len(numbers))]

    def _read(self, archive: "_Archive", position: float) -> Tensor | None:
        """The next segment of an archive; None at its end."""
        first = self._next_piece(archive, position, self.segment_samples)
        if first is None:
            return None

        def read(missing: int) -> Tensor | None:
            return self._next_piece(archive, 0.0, missing)

        return join_pieces(first, read, self.segment_samples, self.sample_rate)

    def _next_piece(self, archive: "_Archive", position: float, samples: int) -> Tensor | None:
        """Up to `samples` samples of the current file, or of the next that decodes; None at the end of the archive."""
        while (member := archive.current(self._skipped)) is not None:
            name, content = member
            try:
                with AudioFile(io.BytesIO(content), name) as file:
                    piece = read_piece(file, self.sample_rate, self.channels, position, samples)
            except AudioFileError as error:
                self._skipped.append(error.name)
                archive.advance()
                continue
            archive.drawn += 1
            if piece.shape[-1] < samples or archive.drawn >= self.segments_per_file:
                archive.advance()
            return piece
        return None


class _Archive:
    """A tar archive at an offset, opened when it is first read, and closed when it is no longer used.

    Attributes:
        number: Of its address.
        offset: In bytes, of the header of the current file.
        drawn: Segments drawn from the current file so far.
    """

    def __init__(self, address: str, number: int, offset: int = 0, drawn: int = 0) -> None:
        self.address, self.number = address, number
        self.offset, self.drawn = offset, drawn
        self._file: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None
        self._member: tuple[str, bytes] | None = None
        self._ended = False

    def current(self, skipped: list[str]) -> tuple[str, bytes] | None:
        """Name and content of the current audio file; None at the end. A damaged archive is added to `skipped`."""
        if self._member is None and not self._ended:
            try:
                self._member = self._next_audio()
            except (OSError, tarfile.TarError, EOFError) as error:
                skipped.append(f"{self.address} ({error})")
            self._ended = self._member is None
        return self._member

    def advance(self) -> None:
        """Makes the next file the current one."""
        assert self._tar is not None
        self._member, self.offset, self.drawn = None, self._tar.offset, 0

    def _next_audio(self) -> tuple[str, bytes] | None:
        tar = self._opened()
        while (member := tar.next()) is not None:
            # Otherwise the list of all members stays in memory.
            tar.members.clear()  # type: ignore[attr-defined]  # it is missing in typeshed
            if member.isfile() and os.path.splitext(member.name)[1].lower() in AUDIO_SUFFIXES:
                self.offset = member.offset
                content = tar.extractfile(member)
                assert content is not None  # of a file, there is
                data = content.read()
                if len(data) < member.size:
                    raise EOFError(f"it ends within {member.name}")
                return f"{self.address}:{member.name}", data
        # tarfile takes a damaged header for the end. Archives end with blocks of zeros.
        assert self._file is not None
        self._file.seek(tar.offset)
        if any(self._file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"damaged at byte {tar.offset}")
        return None

    def _opened(self) -> tarfile.TarFile:
        if self._tar is None:
            self._file = _open(self.address)
            weakref.finalize(self, self._file.close)
            self._file.seek(self.offset)
            self._tar = tarfile.TarFile(fileobj=self._file)
        return self._tar


def expand_address(pattern: str) -> list[str]:
    """The addresses that a pattern stands for, in order: `{000..127}` is each number, and `*` matches local files.

    Raises:
        DataError: There is no such file on this machine.
    """
    numbers = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if numbers is not None:
        first, last = numbers.groups()
        each = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        expanded = [pattern[: numbers.start()] + number + pattern[numbers.end() :] for number in each]
        return list(itertools.chain.from_iterable(map(expand_address, expanded)))
    if "://" in pattern:
        return [pattern]
    pattern = os.path.expanduser(pattern)
    found = sorted(glob.glob(pattern)) if "*" in pattern else [pattern] if os.path.isfile(pattern) else []
    if not found:
        raise DataError(f"data.dataset.shards: there is no file {pattern}")
    return found


def _open(address: str) -> BinaryIO:
    if "://" not in address:
        return open(address, "rb")
    file: BinaryIO = fsspec.open(address, "rb").open()
    return file
