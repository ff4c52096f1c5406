"""Scanning folders of good, bad and foreign files."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import DataError, Entry, Manifest, scan_folder
from data.__main__ import main


def write_noise(
    path: Path, seconds: float, sample_rate: int = 24000, channels: int = 1, subtype: str | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(1).normal(0, 0.1, (round(seconds * sample_rate), channels)).astype(np.float32)
    soundfile.write(path, samples, sample_rate, subtype=subtype)


def test_a_scan_finds_all_audio_and_nothing_else(tmp_path: Path) -> None:
    write_noise(tmp_path / "b.wav", 0.5, 8000)
    write_noise(tmp_path / "deep/er/a.flac", 1.0, 44100, 2)
    write_noise(tmp_path / "deep/c.ogg", 0.25, 48000)
    write_noise(tmp_path / "eight.WAV", 0.2, 192000, 8)
    (tmp_path / "notes.txt").write_text("not audio, and not missed")
    write_noise(tmp_path / ".hidden/a.wav", 1.0)
    (tmp_path / "._b.wav").write_bytes(b"resource fork")
    manifest = scan_folder(tmp_path)
    assert [(entry.path, entry.sample_rate, entry.channels, entry.frames) for entry in manifest.entries] == [
        ("b.wav", 8000, 1, 4000),
        ("deep/c.ogg", 48000, 1, 12000),
        ("deep/er/a.flac", 44100, 2, 44100),
        ("eight.WAV", 192000, 8, 38400),
    ]
    assert manifest.skipped_files == []
    assert manifest.seconds == pytest.approx(0.5 + 1.0 + 0.25 + 0.2)
    assert all(entry.bytes == (tmp_path / entry.path).stat().st_size for entry in manifest.entries)


def test_unusable_files_are_skipped_with_the_reason(tmp_path: Path) -> None:
    write_noise(tmp_path / "good.wav", 0.5)
    write_noise(tmp_path / "low.wav", 0.5, 4000)
    soundfile.write(tmp_path / "three.wav", np.zeros(3), 24000)
    soundfile.write(tmp_path / "header.wav", np.zeros(0), 24000)
    (tmp_path / "text.flac").write_text("renamed")
    (tmp_path / "empty.ogg").touch()
    (tmp_path / "random.mp3").write_bytes(np.random.default_rng(0).bytes(3000))
    (tmp_path / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    write_noise(tmp_path / "fast.wav", 0.2, 655350)
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    manifest = scan_folder(tmp_path)
    assert [entry.path for entry in manifest.entries] == ["good.wav"]
    reasons = dict(manifest.skipped_files)
    assert reasons["low.wav"] == "sample rate 4000 Hz is below 8000 Hz"
    assert reasons["three.wav"] == "3 frames, 0.000 s, is below 0.1 s"
    assert reasons["header.wav"].startswith("0 frames")
    assert reasons["fast.wav"] == "sample rate 655350 Hz is above 384000 Hz"
    assert reasons["gone.wav"] == "no such file"
    for name in ("text.flac", "empty.ogg", "random.mp3", "phone.m4a"):
        assert reasons[name].startswith("not audio that libsndfile can read")


def test_limits_can_be_changed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "three.wav", np.zeros(3), 4000)
    manifest = scan_folder(tmp_path, minimum_seconds=0.0, minimum_sample_rate=1)
    assert manifest.entries[0].frames == 3


def test_folders_without_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no such folder$"):
        scan_folder(tmp_path / "absent")
    with pytest.raises(DataError, match=r"the folder is empty$"):
        scan_folder(tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("words")
    with pytest.raises(DataError, match="no audio among its 3 files"):
        scan_folder(tmp_path)
    (tmp_path / "a.wav").write_text("words")
    with pytest.raises(
        DataError, match=r"none of its 1 audio files can be used, for example a\.wav: not audio"
    ) as caught:
        scan_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    write_noise(tmp_path / "real/a.wav", 0.2)
    write_noise(tmp_path / "corpus/b.wav", 0.2)
    (tmp_path / "corpus/linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to(tmp_path / "corpus")
    assert [entry.path for entry in scan_folder(tmp_path / "corpus").entries] == ["b.wav", "linked/a.wav"]


def test_round_trip_from_another_folder(tmp_path: Path) -> None:
    write_noise(tmp_path / "audio/speech/ä b.wav", 0.2)
    write_noise(tmp_path / "audio/music/c.wav", 0.3)
    (tmp_path / "audio/bad.wav").touch()
    manifest = scan_folder(tmp_path / "audio", source_of=lambda path: path.split("/")[0])
    manifest.save(tmp_path / "lists/all.jsonl")
    loaded = Manifest.load(tmp_path / "lists/all.jsonl")
    assert loaded.sources == manifest.sources == {"music": pytest.approx(0.3), "speech": pytest.approx(0.2)}
    assert [os.path.realpath(loaded.path(entry)) for entry in loaded.entries] == [
        os.path.realpath(manifest.path(entry)) for entry in manifest.entries
    ]
    assert loaded.skipped_files == [("../audio/bad.wav", manifest.skipped_files[0][1])]
    loaded.save(tmp_path / "lists/again.jsonl")
    assert (tmp_path / "lists/again.jsonl").read_text() == (tmp_path / "lists/all.jsonl").read_text()
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == ["again.jsonl", "all.jsonl"]


def test_a_manifest_moves_with_its_folder(tmp_path: Path) -> None:
    write_noise(tmp_path / "old/a.wav", 0.2)
    scan_folder(tmp_path / "old").save(tmp_path / "old/all.jsonl")
    (tmp_path / "old").rename(tmp_path / "new")
    manifest = Manifest.load(tmp_path / "new/all.jsonl")
    assert os.path.exists(manifest.path(manifest.entries[0]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: not a manifest entry"),
        ("[1]", "line 2: not a manifest entry"),
        ('{"path": "a.wav", "sample_rate": 24000}', "line 2: not a manifest entry"),
        ('{"path": "a.wav", "sample_rate": 24000, "channels": 1, "frames": 9, "colour": 1}', "unexpected keyword"),
        ('{"path": "a.wav", "sample_rate": "24k", "channels": 1, "frames": 9}', "line 2: not a manifest entry"),
        ('{"path": "a.wav", "sample_rate": 24000, "channels": 0, "frames": 9}', "must be positive"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = json.dumps({"path": "b.wav", "sample_rate": 24000, "channels": 1, "frames": 9})
    (tmp_path / "all.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=message):
        Manifest.load(tmp_path / "all.jsonl")


def test_empty_absent_and_binary_manifests(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="lists no usable file"):
        Manifest.load(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="not a readable manifest"):
        Manifest.load(tmp_path / "absent.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a readable manifest"):
        Manifest.load(tmp_path / "binary.jsonl")


def test_where_keeps_skipped_files() -> None:
    entries = [Entry("a.wav", 22050, 1, 10, 20), Entry("b.wav", 44100, 1, 10, 20)]
    kept = Manifest(Path("x"), entries, [("c.wav", "corrupt")]).where(lambda entry: entry.sample_rate > 24000)
    assert [entry.path for entry in kept.entries] == ["b.wav"]
    assert kept.skipped_files == [("c.wav", "corrupt")]


def test_an_entry_takes_little_memory(tmp_path: Path) -> None:
    line = {"sample_rate": 24000, "channels": 1, "frames": 24000, "bytes": 48044, "source": "speech", "package": "p"}
    with open(tmp_path / "all.jsonl", "w") as file:
        file.writelines(json.dumps(line | {"path": f"speaker/{number:07d}.wav"}) + "\n" for number in range(5000))
    tracemalloc.start()
    manifest = Manifest.load(tmp_path / "all.jsonl")
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest.entries) == 5000
    assert used / 5000 < 400  # bytes


def test_the_command_writes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_noise(tmp_path / "audio/a.wav", 0.5)
    (tmp_path / "audio/b.wav").touch()
    assert main([str(tmp_path / "audio"), str(tmp_path / "all.jsonl")]) == 0
    printed = capsys.readouterr()
    assert "1 files, 0.0 min" in printed.out
    assert printed.err.startswith("skipped: b.wav: not audio that libsndfile can read")
    assert printed.err.count("\n") == 1
    assert len(Manifest.load(tmp_path / "all.jsonl").entries) == 1
    assert main([str(tmp_path / "absent"), str(tmp_path / "no.jsonl")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2
