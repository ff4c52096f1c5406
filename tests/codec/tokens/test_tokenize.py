"""Shards of made-up codes: their bytes, their size, runs that stop and start again, and memory."""

import itertools
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.tokens import (
    Card,
    Entry,
    EntryList,
    Failure,
    ShardSize,
    TokenFolder,
    Tokens,
    TokensError,
    locked,
    manifest_entries,
    read_tokens,
    tokenize,
)
from codec.tokens.shards import read_shard

SIZES = [16] * 4
CARD: dict[str, Any] = {
    "model": "0123456789abcdef",
    "sample_rate": 24_000,
    "channels": 1,
    "hop_samples": 320,
    "frame_rate_hz": 75.0,
    "kbps": 1.2,
    "codebook_sizes": SIZES,
    "dtype": "uint16",
    "beams": 1,
    "has_gains": False,
    "segment_samples": None,
    "segment_stride": None,
    "format": "npz",
    "shard_size": "3 files",
}


def listed(folder: Path, count: int) -> EntryList:
    path = folder / "manifest.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"path": f"{number % 7}/{number}.wav", "text": f"text {number}"}) + "\n")
    return manifest_entries(path)


def card_of(entries: EntryList, **changes: Any) -> Card:
    return Card(entries=entries.count, digest=entries.digest, columns=entries.columns, **(CARD | changes))


def opened(folder: Path, card: Card, force: bool = False) -> TokenFolder:
    folder.mkdir(exist_ok=True)
    return TokenFolder(folder, card, force)


class StubEncoder:
    """Codes that depend on the number of the entry. Every seventh file fails.

    Attributes:
        encoded: Numbers of the entries that were encoded.
    """

    def __init__(self, gains: bool = False, stop_at: int | None = None) -> None:
        self.gains, self.stop_at = gains, stop_at
        self.encoded: list[int] = []

    def __call__(self, entries: Iterable[Entry]) -> Iterator[Tokens | Failure]:
        for entry in entries:
            if entry.number == self.stop_at:
                raise KeyboardInterrupt
            self.encoded.append(entry.number)
            yield self.result(entry.number)

    def result(self, number: int) -> Tokens | Failure:
        if number % 7 == 3:
            return Failure("is not audio")
        frames = number % 5
        codes = np.random.default_rng(number).integers(0, 16, (4, frames)).astype(np.uint16)
        gains = np.full(min(1, frames), number / 3, np.float32) if self.gains else None
        return Tokens(codes, gains, frames * 320 - min(frames, 1), ("has a note",) if number == 5 else ())


def run(folder: Path, entries: EntryList, encoder: StubEncoder, size: str = "3", window: int = 1, **card: Any) -> Card:
    shard_size = ShardSize.parse(size)
    made = opened(folder, card_of(entries, shard_size=str(shard_size), **card))
    return tokenize(entries, made, encoder, shard_size, lambda entry, result: None, window)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["npz", "parquet"])
@pytest.mark.parametrize("gains", [False, True])
def test_what_is_read_is_what_was_written(tmp_path: Path, form: str, gains: bool) -> None:
    entries, encoder = listed(tmp_path, 12), StubEncoder(gains)
    card = run(tmp_path / "out", entries, encoder, format=form, has_gains=gains)
    stored = list(read_tokens(tmp_path / "out"))
    expected = [(n, r) for n in range(12) if isinstance(r := encoder.result(n), Tokens)]
    assert [tokens.line["id"] for tokens in stored] == [f"{number:08d}" for number, _ in expected]
    for tokens, (number, result) in zip(stored, expected, strict=True):
        assert tokens.codes.dtype == np.uint16
        np.testing.assert_array_equal(tokens.codes, result.codes)
        assert (tokens.gains is None) == (not gains)
        if gains:
            np.testing.assert_array_equal(tokens.gains, result.gains)
        assert tokens.line["path"] == f"{number % 7}/{number}.wav"
        assert tokens.line["text"] == f"text {number}"
        assert tokens.line["frames"] == result.codes.shape[1]
        assert tokens.line["samples"] == result.samples
        assert tokens.line["seconds"] == result.samples / 24_000
        assert (tokens.line["model"], tokens.line["sample_rate"], tokens.line["kbps"]) == (card.model, 24_000, 1.2)
        assert tokens.line.get("notes") == (["has a note"] if number == 5 else None)
    failed = [json.loads(line) for line in (tmp_path / "out/failed.jsonl").read_text().splitlines()]
    assert [(f["path"], f["reason"], f["text"]) for f in failed] == [
        (f"3/{n}.wav", "is not audio", f"text {n}") for n in (3, 10)
    ]
    assert (card.files, card.failed, card.shards, card.complete) == (10, 2, 4, True)
    assert card.frames == sum(result.codes.shape[1] for _, result in expected)
    assert card.seconds == pytest.approx(sum(result.samples for _, result in expected) / 24_000)
    assert Card.load(tmp_path / "out/dataset.json") == card


def test_parquet_has_the_columns_of_the_manifest(tmp_path: Path) -> None:
    from pyarrow import parquet

    lines = [
        {"path": "a.wav", "text": "one", "speaker": 3, "gain": 1, "mixed": 1},
        {"path": "caf\udce9.wav", "text": None, "speaker": 4, "gain": 0.5, "mixed": [1, "x"], "never": None},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    run(tmp_path / "out", manifest_entries(path), StubEncoder(), format="parquet")
    table = parquet.read_table(tmp_path / "out/tokens-00000.parquet")
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == ["a.wav", "caf\\udce9.wav"]
    assert [row["text"] for row in rows] == ["one", None]
    assert [row["speaker"] for row in rows] == [3, 4]
    assert [row["gain"] for row in rows] == [1.0, 0.5]
    assert [row["mixed"] for row in rows] == ["1", '[1, "x"]']
    assert [row["never"] for row in rows] == [None, None]
    assert str(table.schema.field("codes").type) == "list<element: list<element: uint16>>"
    assert [np.shape(row["codes"]) for row in rows] == [(4, 0), (4, 1)]
    assert [row["frames"] for row in rows] == [0, 1]


def test_npz_has_one_array_per_file(tmp_path: Path) -> None:
    encoder = StubEncoder()
    run(tmp_path / "out", listed(tmp_path, 4), encoder)
    with np.load(tmp_path / "out/tokens-00000.npz") as arrays:
        assert arrays.files == ["00000000", "00000001", "00000002"]
        np.testing.assert_array_equal(arrays["00000002"], encoder.result(2).codes)  # type: ignore[union-attr]
    assert not (tmp_path / "out/tokens-00001.npz").exists()  # no file could be read


def test_sizes_of_shards(tmp_path: Path) -> None:
    class Large(StubEncoder):
        def result(self, number: int) -> Tokens | Failure:
            return Tokens(np.zeros((4, 50_000), np.uint16), None, 16_000_000)  # 400 kB

    def files_per_shard(size: str, form: str) -> list[int]:
        folder = tmp_path / f"{size}-{form}"
        card = run(folder, listed(tmp_path, 7), Large(), size, format=form)
        loaded = Card.load(folder / "dataset.json")
        assert loaded == card
        return [sum(1 for _ in read_shard(path, loaded)) for path in sorted(folder.glob(f"*.{form}"))]

    assert files_per_shard("3", "npz") == [3, 3, 1]
    assert files_per_shard("1MiB", "npz") == [3, 3, 1]
    assert files_per_shard("2 mib", "parquet") == [6, 1]
    assert files_per_shard("1000", "parquet") == [7]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "3 GiB", "", "MiB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="1000"):
        ShardSize.parse(text)


@pytest.mark.parametrize("form", ["npz", "parquet"])
@pytest.mark.parametrize("stop_at", [0, 2, 3, 11, 17, 19])
def test_a_stopped_run_ends_with_the_same_bytes_and_does_nothing_twice(tmp_path: Path, form: str, stop_at: int) -> None:
    entries = listed(tmp_path, 20)
    run(tmp_path / "whole", entries, StubEncoder(), format=form)
    first, second = StubEncoder(stop_at=stop_at), StubEncoder()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", entries, first, format=form)
    finished = opened(tmp_path / "out", card_of(entries, format=form)).done
    assert not list((tmp_path / "out").glob("*.partial"))
    run(tmp_path / "out", entries, second, format=form)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert second.encoded == list(range(finished, 20))
    assert finished >= stop_at - 3 - 1  # a shard has three files and at most one that failed


def test_a_window_is_encoded_again_as_a_whole(tmp_path: Path) -> None:
    entries = listed(tmp_path, 20)
    run(tmp_path / "whole", entries, StubEncoder(), window=8)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", entries, StubEncoder(stop_at=15), window=8)
    again = StubEncoder()
    assert opened(tmp_path / "out", card_of(entries)).done == 14
    run(tmp_path / "out", entries, again, window=8)
    assert again.encoded == list(range(8, 20))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_folder_is_left_as_it_is(tmp_path: Path) -> None:
    entries, again = listed(tmp_path, 8), StubEncoder()
    card = run(tmp_path / "out", entries, StubEncoder())
    before = contents(tmp_path / "out")
    assert run(tmp_path / "out", entries, again) == card
    assert again.encoded == []
    assert contents(tmp_path / "out") == before


def test_a_run_that_was_killed_between_its_last_steps(tmp_path: Path) -> None:
    """The card is complete, but the lines of the shards are still there; or the manifest is there, but not the card."""
    entries = listed(tmp_path, 8)
    run(tmp_path / "whole", entries, StubEncoder())
    folder = opened(tmp_path / "out", card_of(entries))
    tokenize(entries, folder, StubEncoder(), ShardSize(3), lambda entry, result: None)
    (tmp_path / "out/tokens-00000.jsonl").write_text("{}\n")
    (tmp_path / "out/tokens-00009.npz.partial").touch()
    run(tmp_path / "out", entries, StubEncoder())
    assert (tmp_path / "out/tokens-00009.npz.partial").exists() is False
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_settings_need_another_folder_or_force(tmp_path: Path) -> None:
    entries = listed(tmp_path, 8)
    run(tmp_path / "out", entries, StubEncoder())
    before = contents(tmp_path / "out")
    with pytest.raises(TokensError, match=r"kbps 1\.2, not 2\.4"):
        opened(tmp_path / "out", card_of(entries, kbps=2.4))
    with pytest.raises(TokensError, match="entries 8, not 9"):
        opened(tmp_path / "out", card_of(listed(tmp_path, 9)))
    assert contents(tmp_path / "out") == before
    folder = opened(tmp_path / "out", card_of(entries, format="parquet"), force=True)
    assert (folder.done, list(contents(tmp_path / "out"))) == (0, ["dataset.json"])


def test_nothing_of_others_is_removed(tmp_path: Path) -> None:
    entries = listed(tmp_path, 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(TokensError, match="other files"):
            opened(tmp_path / "out", card_of(entries), force)
    assert list(contents(tmp_path / "out")) == ["thesis.tex"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()
        with pytest.raises(TokensError, match="another process"), locked(tmp_path / "out"):
            pass
    with locked(tmp_path / "out"):
        pass
    with pytest.raises(TokensError, match="is a file"), locked(Path(__file__)):
        pass


def test_an_encoder_with_too_few_results(tmp_path: Path) -> None:
    entries = listed(tmp_path, 5)
    with pytest.raises(TokensError, match="could not be encoded"):
        tokenize(
            entries,
            opened(tmp_path / "out", card_of(entries)),
            lambda given: iter([Failure("no")]),
            ShardSize(3),
            lambda entry, result: None,
        )


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, form: str) -> None:
    codes = np.zeros((4, 5), np.uint16)

    def peak_of(count: int, attempt: int = 0) -> int:
        listed(tmp_path, count)
        tracemalloc.start()
        entries = manifest_entries(tmp_path / "manifest.jsonl")
        folder = opened(tmp_path / f"out-{count}-{attempt}", card_of(entries, format=form))
        results = (Tokens(codes, None, 1600) if i % 7 else Failure("no audio") for i in range(count))
        tokenize(entries, folder, lambda given: results, ShardSize(100), lambda entry, result: None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert folder.card.files > count / 2
        return peak

    peak_of(100)  # imports
    # pathlib interns every name. The table of all interned strings grows at once, by megabytes in a process with many
    # modules, after about as many new names as it holds: in one pass of some dozens, and not in two that follow.
    few = min(peak_of(200, attempt) for attempt in range(2))
    many = (peak_of(2_000, attempt) for attempt in range(2))  # the second only if the first is too high
    assert any(peak < few + 60_000 for peak in many), few  # a list of short names would take 130 kB


@pytest.mark.parametrize(
    ("form", "damage"),
    [("npz", "encrypted"), *itertools.product(("npz", "parquet"), ("missing", "empty", "cut", "other"))],
)
def test_a_corrupt_shard_is_named(tmp_path: Path, form: str, damage: str) -> None:
    run(tmp_path / "out", listed(tmp_path, 8), StubEncoder(), format=form)
    first, second = (tmp_path / f"out/tokens-0000{i}.{form}" for i in (0, 1))
    if damage == "missing":
        second.unlink()
    elif damage == "empty":
        second.write_bytes(b"")
    elif damage == "cut":
        second.write_bytes(second.read_bytes()[:-30])
    elif damage == "encrypted":  # the flags of the first member in the directory
        content = second.read_bytes()
        flags = content.index(b"PK\x01\x02") + 8
        second.write_bytes(content[:flags] + b"\x41" + content[flags + 1 :])
    else:
        second.write_bytes(first.read_bytes())
    rows = read_tokens(tmp_path / "out")
    assert [next(rows).line["id"] for _ in range(3)] == ["00000000", "00000001", "00000002"]
    with pytest.raises(FileNotFoundError if damage == "missing" else TokensError, match="tokens-00001"):
        next(rows)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("manifest.jsonl", "{}"),
        ("manifest.jsonl", "no JSON"),
        ("manifest.jsonl", '{"id": 0, "path": "a", "shard": "b", "samples": 3}'),
        ("manifest.jsonl", '{"id": "0", "path": "a", "shard": "b", "samples": -3}'),
        ("dataset.json", "{}"),
        ("dataset.json", "no JSON"),
        ("dataset.json", '{"hop_samples": 0}'),
    ],
)
def test_a_folder_that_others_have_changed(tmp_path: Path, name: str, change: str) -> None:
    run(tmp_path / "out", listed(tmp_path, 3), StubEncoder())
    path = tmp_path / "out" / name
    if change == '{"hop_samples": 0}':
        change = path.read_text().replace('"hop_samples": 320', '"hop_samples": 0')
    path.write_text(change)
    with pytest.raises(TokensError, match=name):
        list(read_tokens(tmp_path / "out"))


def test_a_folder_that_is_not_complete(tmp_path: Path) -> None:
    opened(tmp_path / "out", card_of(listed(tmp_path, 3), command="codec tokenize a out"))
    with pytest.raises(TokensError, match="codec tokenize a out"):
        list(read_tokens(tmp_path / "out"))
    with pytest.raises(TokensError, match="not a folder of tokens"):
        list(read_tokens(tmp_path))
