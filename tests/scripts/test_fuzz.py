"""The fuzzer: its mutations, the failures that it detects, and a short run."""

import io
import mmap
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import BitstreamReader
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import read_encodec_header
from scripts.fuzz import run as fuzzing
from scripts.fuzz.mutations import mutate, reseal
from scripts.fuzz.run import fuzz, main
from scripts.fuzz.targets import Target, targets

TARGETS = targets()
OWN, ENCODEC = TARGETS[:4], TARGETS[4:6]


def blocks(data: bytes) -> int:
    return len(list(BitstreamReader(io.BytesIO(data), "file").stored_blocks()))


def refusal(target: Target, seed: int, data: bytes) -> str:
    """The message if a file is refused; empty if it decodes."""
    try:
        target.decode(random.Random(seed), data)
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(TARGETS), st.integers(0, 1 << 40))
def test_every_mutated_file_is_decoded_or_refused_in_one_line(target: Target, seed: int) -> None:
    assert "\n" not in refusal(target, seed, mutate(random.Random(seed), target.files))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_valid_files_decode_from_files_and_pipes(target: Target) -> None:
    refusals = {refusal(target, seed, data) for data in target.files for seed in range(4)}
    assert "" in refusals
    # The random start may be after the end of the file.
    assert all(why == "" or "but the start is at" in why for why in refusals)


def test_mutations_depend_only_on_the_seed_and_change_most_files() -> None:
    files = TARGETS[0].files
    once, again = ([mutate(random.Random(seed), files) for seed in range(300)] for _ in range(2))
    assert once == again
    assert sum(data in files for data in once) < 60  # some files are too short for a change
    assert len(set(once)) > 200


def test_there_are_files_of_every_coding_and_number_of_codebooks() -> None:
    for target in OWN:
        headers = [BitstreamReader(io.BytesIO(data), "file").header for data in target.files]
        found = {(header.coding, header.num_codebooks) for header in headers}
        assert found == {(coding, k) for coding in ("fixed", "adaptive", "transformer") for k in (1, 3)}
    for target, most in zip(ENCODEC, (32, 16), strict=True):
        read = [read_encodec_header(ByteSource(io.BytesIO(data)), "file") for data in target.files]
        assert {header.model for header in read} == {target.name}
        assert {(h.is_compressed, h.num_codebooks) for h in read} == {(c, k) for c in (False, True) for k in (2, most)}


def test_mutated_headers_of_version_0_are_read() -> None:
    """Version 0 has no checksums, so the segments after a changed header are read."""
    sentences = {refusal(s, seed, mutate(random.Random(seed), s.files)) for s in ENCODEC for seed in range(300)}
    for said in ("", "m must be", "al must be", "lm must be", "has the scale", "bytes follow its end"):
        assert any(said in sentence if said else sentence == "" for sentence in sentences), said


def test_mutated_files_get_past_the_checksums() -> None:
    """More than half of the mutated files pass the checksums, so the decoder itself is tested."""
    files = [TARGETS[0].files[-1]]
    past = 0
    for seed in range(200):
        try:
            past += blocks(mutate(random.Random(seed), files)) > 0
        except ValueError as error:
            past += "checksum" not in str(error)
    assert past > 100


@pytest.mark.parametrize("target", ENCODEC, ids=lambda target: target.name)
def test_resealing_leaves_files_without_checksums(target: Target) -> None:
    assert [reseal(data) for data in target.files] == target.files


@pytest.mark.parametrize("which", [3, -1])
@pytest.mark.parametrize("target", OWN, ids=lambda target: target.name)
def test_resealing_corrects_only_the_checksums(target: Target, which: int) -> None:
    data = target.files[which]
    assert reseal(data) == data
    length = int.from_bytes(data[5:9], "big")
    corrupt = bytearray(data)
    corrupt[9 + length] ^= 1  # of the checksum of the header
    corrupt[9 + length + 4 + 16] ^= 1  # of the first block: its scale, or its codes
    sealed = reseal(bytes(corrupt))
    assert blocks(sealed) == blocks(data)
    assert sum(a != b for a, b in zip(sealed, data, strict=True)) in range(2, 6)


def refuses_everything(rng: random.Random, data: bytes) -> None:
    raise ValueError("no such file")


def raises_index_error(rng: random.Random, data: bytes) -> None:
    raise IndexError("list index out of range")


def raises_unicode_error(rng: random.Random, data: bytes) -> None:
    data.decode("ascii")
    b"\xff".decode("ascii")


def hangs(rng: random.Random, data: bytes) -> None:
    started = time.process_time()
    while data != b"valid" and time.process_time() < started + 10:
        pass


def sleeps(rng: random.Random, data: bytes) -> None:
    time.sleep(0.2)


def uses_much_memory(rng: random.Random, data: bytes) -> None:
    if data != b"valid":
        # A separate mapping: the heap may keep freed memory and would not grow a second time.
        np.frombuffer(mmap.mmap(-1, 40 << 20), np.uint8)[::1024] = 1


@pytest.mark.parametrize(
    ("decode", "sentence"),
    [
        (raises_index_error, "IndexError: list index out of range"),
        (raises_unicode_error, "UnicodeDecodeError"),
        (hangs, "not finished after 0.05 s"),
        (uses_much_memory, "grew by "),
    ],
)
def test_failures_are_detected_and_their_files_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decode: Callable[[random.Random, bytes], None], sentence: str
) -> None:
    monkeypatch.setattr(fuzzing, "_SECONDS", 0.05 if decode is hangs else 5.0)
    monkeypatch.setattr(fuzzing, "mutate", lambda rng, files: b"mutated")
    report = fuzz([Target("broken", [b"valid"], decode)], range(7), 3, tmp_path / "kept")
    assert report.outcomes == {"failed": 7}
    assert len(report.failures) == 5
    assert report.failures[0].reason.startswith(sentence)
    assert (tmp_path / "kept" / "3_0.ecdc").read_bytes() == b"mutated"


def test_the_time_limit_counts_only_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "_SECONDS", 0.05)
    report = fuzz([Target("slow", [b"valid"], sleeps)], range(2), 0, tmp_path / "kept")
    assert report.outcomes == {"decoded": 2}
    assert report.slowest_seconds < 0.05


def test_without_failures_no_file_is_saved(tmp_path: Path) -> None:
    report = fuzz([Target("strict", [b"valid"], refuses_everything)], range(20), 0, tmp_path / "kept")
    assert report.outcomes == {"refused": 20}
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--cases", "120", "--seed", "5", "--output", str(tmp_path / "kept")]) == 0
    out = capsys.readouterr().out
    assert "120 cases in " in out
    assert " decoded, " in out
    assert " refused" in out
    assert not (tmp_path / "kept").exists()
    monkeypatch.setattr(fuzzing, "targets", lambda: [Target("broken", [b"valid"], raises_index_error)])
    assert main(["--cases", "2", "--output", str(tmp_path / "kept")]) == 1
    out = capsys.readouterr().out
    assert "2 failed" in out
    assert f"broken, case 0: IndexError: list index out of range: {tmp_path / 'kept' / '0_0.ecdc'}" in out
