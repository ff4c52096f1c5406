"""The fuzzer: what it does to files, that it notices what it should, and a short run of it."""

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
from scripts.fuzz.subjects import Subject, subjects

SUBJECTS = subjects()
OWN, FOREIGN = SUBJECTS[:4], SUBJECTS[4:]


def blocks(data: bytes) -> int:
    return len(list(BitstreamReader(io.BytesIO(data), "file").stored_blocks()))


def refusal(subject: Subject, seed: int, data: bytes) -> str:
    """Why a file is refused, nothing if it decodes."""
    try:
        subject.decode(random.Random(seed), data)
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(SUBJECTS), st.integers(0, 1 << 40))
def test_every_mutated_file_is_decoded_or_refused_in_one_line(subject: Subject, seed: int) -> None:
    assert "\n" not in refusal(subject, seed, mutate(random.Random(seed), subject.files))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_valid_files_decode_however_they_are_read(subject: Subject) -> None:
    refusals = {refusal(subject, seed, data) for data in subject.files for seed in range(4)}
    assert "" in refusals
    # The start that is drawn may lie behind the end.
    assert all(why == "" or "but the start is at" in why for why in refusals)


def test_mutations_depend_on_the_seed_alone_and_change_nearly_everything() -> None:
    files = SUBJECTS[0].files
    once, again = ([mutate(random.Random(seed), files) for seed in range(300)] for _ in range(2))
    assert once == again
    assert sum(data in files for data in once) < 60  # among them are files too short to change much
    assert len(set(once)) > 200


def test_there_are_files_of_every_coding_and_number_of_codebooks() -> None:
    for subject in OWN:
        headers = [BitstreamReader(io.BytesIO(data), "file").header for data in subject.files]
        found = {(header.coding, header.num_codebooks) for header in headers}
        assert found == {(coding, k) for coding in ("fixed", "adaptive", "transformer") for k in (1, 3)}
    for subject, most in zip(FOREIGN, (32, 16), strict=True):
        read = [read_encodec_header(ByteSource(io.BytesIO(data)), "file") for data in subject.files]
        assert {header.model for header in read} == {subject.name}
        assert {(h.is_compressed, h.num_codebooks) for h in read} == {(c, k) for c in (False, True) for k in (2, most)}


def test_mutated_headers_of_version_0_are_read() -> None:
    """Its header has no checksum: with one in its place, no segment after a changed header would be looked at."""
    sentences = {refusal(s, seed, mutate(random.Random(seed), s.files)) for s in FOREIGN for seed in range(300)}
    for said in ("", "m must be", "al must be", "lm must be", "has the scale", "bytes follow its end"):
        assert any(said in sentence if said else sentence == "" for sentence in sentences), said


def test_mutated_files_get_past_the_checksums() -> None:
    """Or only the checksum would be tested: of the mutated files more reach the decoder than damage could."""
    files = [SUBJECTS[0].files[-1]]
    past = 0
    for seed in range(200):
        try:
            past += blocks(mutate(random.Random(seed), files)) > 0
        except ValueError as error:
            past += "checksum" not in str(error)
    assert past > 100


@pytest.mark.parametrize("subject", FOREIGN, ids=lambda subject: subject.name)
def test_resealing_leaves_files_without_checksums(subject: Subject) -> None:
    assert [reseal(data) for data in subject.files] == subject.files


@pytest.mark.parametrize("which", [3, -1])
@pytest.mark.parametrize("subject", OWN, ids=lambda subject: subject.name)
def test_resealing_makes_every_checksum_right_and_changes_nothing_else(subject: Subject, which: int) -> None:
    data = subject.files[which]
    assert reseal(data) == data
    length = int.from_bytes(data[5:9], "big")
    damaged = bytearray(data)
    damaged[9 + length] ^= 1  # of the checksum of the header
    damaged[9 + length + 4 + 16] ^= 1  # of the first block: its scale, or its codes
    sealed = reseal(bytes(damaged))
    assert blocks(sealed) == blocks(data)
    assert sum(a != b for a, b in zip(sealed, data, strict=True)) in range(2, 6)


def refuses_all(drawn: random.Random, data: bytes) -> None:
    raise ValueError("no such file")


def breaks(drawn: random.Random, data: bytes) -> None:
    raise IndexError("list index out of range")


def garbles(drawn: random.Random, data: bytes) -> None:
    data.decode("ascii")
    b"\xff".decode("ascii")


def hangs(drawn: random.Random, data: bytes) -> None:
    begun = time.process_time()
    while data != b"valid" and time.process_time() < begun + 10:
        pass


def waits_for_the_machine(drawn: random.Random, data: bytes) -> None:
    time.sleep(0.2)


def swallows_memory(drawn: random.Random, data: bytes) -> None:
    if data != b"valid":
        # A mapping of its own: the heap of a test process may keep what is freed, and would not grow a second time.
        np.frombuffer(mmap.mmap(-1, 40 << 20), np.uint8)[::1024] = 1


@pytest.mark.parametrize(
    ("decode", "sentence"),
    [
        (breaks, "IndexError: list index out of range"),
        (garbles, "UnicodeDecodeError"),
        (hangs, "not done after 0.05 s"),
        (swallows_memory, "grew by "),
    ],
)
def test_what_goes_wrong_is_noticed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decode: Callable[[random.Random, bytes], None], sentence: str
) -> None:
    monkeypatch.setattr(fuzzing, "_SECONDS", 0.05 if decode is hangs else 5.0)
    monkeypatch.setattr(fuzzing, "mutate", lambda drawn, files: b"mutated")
    report = fuzz([Subject("broken", [b"valid"], decode)], range(7), 3, tmp_path / "kept")
    assert report.outcomes == {"went wrong": 7}
    assert len(report.offences) == 5
    assert report.offences[0].what.startswith(sentence)
    assert (tmp_path / "kept" / "3_0.ecdc").read_bytes() == b"mutated"


def test_a_machine_that_is_busy_with_something_else_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "_SECONDS", 0.05)
    report = fuzz([Subject("slow", [b"valid"], waits_for_the_machine)], range(2), 0, tmp_path / "kept")
    assert report.outcomes == {"decoded": 2}
    assert report.slowest_seconds < 0.05


def test_clean_outcomes_are_counted_and_nothing_is_kept(tmp_path: Path) -> None:
    report = fuzz([Subject("strict", [b"valid"], refuses_all)], range(20), 0, tmp_path / "kept")
    assert report.outcomes == {"refused": 20}
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--cases", "120", "--seed", "5", "--output", str(tmp_path / "kept")]) == 0
    out = capsys.readouterr().out
    assert "120 cases in " in out
    assert " decoded, " in out
    assert " refused" in out
    assert not (tmp_path / "kept").exists()
    monkeypatch.setattr(fuzzing, "subjects", lambda: [Subject("broken", [b"valid"], breaks)])
    assert main(["--cases", "2", "--output", str(tmp_path / "kept")]) == 1
    out = capsys.readouterr().out
    assert "2 went wrong" in out
    assert f"broken, case 0: IndexError: list index out of range: {tmp_path / 'kept' / '0_0.ecdc'}" in out
