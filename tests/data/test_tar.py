"""Tar archives: every file once in a pass, exact resume, damage, and archives at addresses."""

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import fsspec
import numpy as np
import pytest
import soundfile
import torch

import data.tar
from codec.training import TrainingData
from data import DataError, RandomGain, Segment, TarDataset, transformed

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # machines with a single core

RATE = 8000
SAMPLES = 80  # of a segment


def wav(level: float, samples: int = 2 * SAMPLES) -> bytes:
    """A constant, which tells which file a segment is from."""
    content = io.BytesIO()
    soundfile.write(content, np.full(samples, level), RATE, format="WAV", subtype="FLOAT")
    return content.getvalue()


def write_tar(file: str | Path | BinaryIO, members: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(**{"fileobj" if hasattr(file, "write") else "name": file}, mode="w") as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def level_of(number: int) -> float:
    return (1 + number) / 64


@pytest.fixture
def archives(tmp_path: Path) -> str:
    """Six archives of five files each, with texts between them and one name of 200 bytes."""
    for number in range(6):
        members = []
        for each in range(5):
            name = f"{number * 5 + each:06d}" + "n" * (200 if each == 3 else 0)
            members += [(f"{name}.wav", wav(level_of(number * 5 + each))), (f"{name}.json", b'{"text": "a"}')]
        write_tar(tmp_path / f"train-{number:04d}.tar", members)
    return str(tmp_path / "train-{0000..0005}.tar")


def dataset(shards: str | list[str], **settings: int) -> TarDataset:
    return TarDataset(shards, RATE, 1, SAMPLES / RATE, **settings)


def numbers(segments: Iterable[Segment]) -> list[int]:
    """Of the files; every segment is of one file."""
    found = []
    for segment in segments:
        assert segment.audio.shape == (1, SAMPLES)
        assert len(segment.audio.unique()) == 1
        found.append(round(float(segment.audio[0, 0]) * 64) - 1)
    return found


def test_a_pass_has_every_file_once_and_each_pass_another_order(archives: str) -> None:
    tar = dataset(archives)
    first, second = numbers(tar), numbers(tar)
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    assert numbers(dataset(archives)) == first
    assert numbers(dataset(archives, seed=1)) != first
    assert len({number // 5 for number in first[:8]}) > 1  # of several archives at once


def test_readers_share_the_archives(archives: str) -> None:
    parts = [numbers(dataset(archives).shard(4, index)) for index in range(4)]
    assert sorted(itertools.chain(*parts)) == list(range(30))
    assert sorted(map(len, parts)) == [5, 5, 10, 10]
    with pytest.raises(DataError, match="6 tar archives cannot be shared by 7 readers"):
        dataset(archives).shard(7, 0)


@pytest.mark.parametrize("segments_per_file", [1, 3])
def test_a_resumed_reader_continues_to_the_bit(archives: str, segments_per_file: int) -> None:
    """At every place of a pass and a half; the state consists of numbers only."""

    def reader() -> TarDataset:
        return dataset(archives, segments_per_file=segments_per_file, open_shards=2).shard(2, 1)

    def endless(tar: TarDataset) -> Iterable[Segment]:
        return itertools.chain.from_iterable(itertools.repeat(tar))

    total = 22 * segments_per_file
    whole = numbers(itertools.islice(endless(reader()), total))
    assert whole[: 15 * segments_per_file].count(whole[0]) == segments_per_file
    stopped = reader()
    states = [json.dumps(stopped.state_dict())]
    states += [json.dumps(stopped.state_dict()) for _ in itertools.islice(endless(stopped), total)]
    for stop in range(0, total, segments_per_file + 1):
        resumed = reader()
        resumed.load_state_dict(json.loads(states[stop]))
        assert numbers(itertools.islice(endless(resumed), total - stop)) == whole[stop:]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_with_workers_and_ranks_resumes(archives: str, num_workers: int) -> None:
    def part(rank: int) -> TrainingData:
        stream = transformed(dataset(archives), [RandomGain(-6, -1)])
        return TrainingData(stream, 4, num_workers, rank, world_size=2)

    for rank in (0, 1):
        whole = list(itertools.islice(part(rank).batches(0), 4))
        stopped, resumed = part(rank), part(rank)
        for batch in itertools.islice(stopped.batches(0), 2):
            stopped.advance(batch)
        other = part(1 - rank)
        for batch in itertools.islice(other.batches(0), 2):
            other.advance(batch)
        resumed.load_state_dicts([stopped.state_dict(), other.state_dict()][:: 1 if rank == 0 else -1])
        for batch, expected in zip(resumed.batches(2), whole[2:], strict=False):
            assert torch.equal(batch.audio, expected.audio)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses in the order in which they are opened."""
    addresses: list[str] = []
    open_file: Callable[[str], BinaryIO] = data.tar._open

    def counted(address: str) -> BinaryIO:
        addresses.append(address)
        return open_file(address)

    monkeypatch.setattr(data.tar, "_open", counted)
    return addresses


def test_of_a_thousand_archives_only_those_that_are_read_are_opened(tmp_path: Path, opened: list[str]) -> None:
    write_tar(tmp_path / "tar", [("a.wav", wav(0.5)), ("b.wav", wav(0.25))])
    for number in range(1000):
        (tmp_path / f"{number}.tar").symlink_to(tmp_path / "tar")
    tar = dataset(str(tmp_path / "*.tar"), open_shards=3)
    assert len(tar.addresses) == 1000
    assert opened == []
    list(itertools.islice(tar, 10))
    assert len(opened) <= 8  # at most three are open beside those that have ended


def test_resuming_opens_only_the_archives_that_were_open(archives: str, opened: list[str]) -> None:
    tar = dataset(archives, open_shards=2)
    list(itertools.islice(tar, 7))
    state = tar.state_dict()
    assert any(offset > 0 for _, offset, _ in state["open"])
    opened.clear()
    resumed = dataset(archives, open_shards=2)
    resumed.load_state_dict(state)
    assert opened == []
    next(iter(resumed))
    assert 1 <= len(opened) <= 2


def test_short_files_are_joined_with_those_that_follow(tmp_path: Path) -> None:
    """Seven files of 300 samples for segments of 800, with fades of 40 samples."""
    write_tar(tmp_path / "short.tar", [(f"{number}.wav", wav(level_of(number), 300)) for number in range(7)])
    found = []
    for segment in TarDataset(str(tmp_path / "short.tar"), RATE, 1, 0.1):
        assert segment.audio.shape == (1, 800)
        found += [number for number in range(7) if int((segment.audio == level_of(number)).sum()) > 50]
    assert found == sorted(set(found))
    assert len(found) >= 5  # a first piece may have its last samples only


def test_what_is_damaged_is_reported_and_passed_over(archives: str, tmp_path: Path) -> None:
    """A file that is no audio, an archive cut within a file, one with a damaged header, and one that is no archive."""
    write_tar(tmp_path / "train-0000.tar", [("x.wav", b"text"), ("y.wav", wav(level_of(0))), ("z.json", b"{}")])
    content = (tmp_path / "train-0001.tar").read_bytes()
    (tmp_path / "train-0001.tar").write_bytes(content[:700])
    damaged = bytearray((tmp_path / "train-0002.tar").read_bytes())
    with tarfile.open(tmp_path / "train-0002.tar") as tar:
        damaged[tar.getmembers()[2].offset + 148] ^= 0xFF  # in its checksum
    (tmp_path / "train-0002.tar").write_bytes(damaged)
    (tmp_path / "train-0003.tar").write_bytes(b"no archive" * 100)
    (tmp_path / "train-0004.tar").unlink()
    (tmp_path / "train-0004.tar").touch()
    reader = dataset(archives)
    segments = [*reader, *reader]  # what is found at the end of a pass is reported in the next
    skipped = {path.split("train-")[1][:8] for segment in segments for path in segment.skipped_files}
    assert {0, *range(25, 30)} <= set(numbers(segments))
    assert skipped == {f"000{number}.tar" for number in range(5)}


def test_without_any_audio_there_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.wav", b"text")])
    with pytest.raises(DataError, match=r"none of 1 tar archives has audio that can be used, for example .*x\.wav"):
        next(iter(dataset(str(tmp_path / "a.tar"))))


def test_addresses_of_fsspec_are_read_and_resumed() -> None:
    for number in range(2):
        with fsspec.open(f"memory://train-{number}.tar", "wb") as file:
            write_tar(file, [(f"{each}.wav", wav(level_of(number * 5 + each))) for each in range(5)])
    tar = dataset("memory://train-{0..1}.tar")
    first = numbers(itertools.islice(tar, 4))
    resumed = dataset("memory://train-{0..1}.tar")
    resumed.load_state_dict(tar.state_dict())
    assert sorted(first + numbers(resumed)) == list(range(10))


def test_missing_files_and_numbers_out_of_range_are_refused(archives: str, tmp_path: Path) -> None:
    for shards in ("nowhere.tar", str(tmp_path / "x*.tar"), str(tmp_path / "train-{0000..0007}.tar")):
        with pytest.raises(DataError, match=r"data\.dataset\.shards: there is no file"):
            dataset(shards)
    for settings in ({"open_shards": 0}, {"segments_per_file": 0}, {"seed": -1}):
        with pytest.raises(DataError, match="open_shards and segments_per_file >= 1"):
            dataset(archives, **settings)
