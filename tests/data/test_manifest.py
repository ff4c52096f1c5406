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
    assert reasons["gone.wav"].startswith("a broken link")
    assert "convert it, for example with ffmpeg" in reasons["phone.m4a"]
    assert reasons["empty.ogg"] == "is empty"
    for name in ("text.flac", "random.mp3"):
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
    (tmp_path / "1.txt").write_text("words")
    with pytest.raises(DataError, match=r"expected a folder of audio, it is a file$"):
        scan_folder(tmp_path / "1.txt")
    with pytest.raises(DataError, match="no audio among its files"):
        scan_folder(tmp_path)
    (tmp_path / "a.wav").write_text("words")
    with pytest.raises(DataError, match=r"none of its 1 audio files can be used: a\.wav: not audio") as caught:
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
        ("not json", "expected one JSON object, got not json"),
        ("[1]", "expected one JSON object"),
        ("[" * 100_000, "expected one JSON object"),
        ('{"sample_rate": 24000, "channels": 1, "frames": 9}', "path: this key is missing"),
        ('{"path": 7}', "path: expected the name of a file, got 7"),
        ('{"path": ""}', "path: expected the name of a file"),
        ('{"path": "a\\u0000.wav"}', "path: expected the name of a file"),
        ('{"path": "\\ud800.wav"}', "path: expected the name of a file"),
        ('{"path": "a.wav", "sample_rate": "24k"}', "sample_rate: expected a whole number of at least 1, got '24k'"),
        ('{"path": "a.wav", "sample_rate": 22050.5}', "sample_rate: expected a whole number"),
        ('{"path": "a.wav", "channels": 0}', "channels: expected a whole number of at least 1, got 0"),
        ('{"path": "a.wav", "channels": true}', "channels: expected a whole number of at least 1, got True"),
        ('{"path": "a.wav", "frames": NaN}', "frames: expected a finite number, got nan"),
        ('{"path": "a.wav", "more": {"x": [1, -Infinity]}}', "more: expected a finite number, got {'x'"),
        ('{"path": "a.wav", "more": ' + "[" * 900 + "]" * 900 + "}", ""),
        ("\u200eoops", r"expected one JSON object, got \u200eoops"),
        ('{"path": "a.wav", "frames": 1e300}', "frames: expected a whole number"),
        ('{"path": "a.wav", "bytes": -1}', "bytes: expected a whole number of at least 0, got -1"),
        ('{"path": "a.wav", "source": ["a"]}', "source: expected text"),
        ('{"path": "a.wav", "skipped": 1}', "skipped: expected a reason as text, got 1"),
    ],
)
def test_file_line_and_key_of_a_bad_line_are_named(tmp_path: Path, line: str, message: str) -> None:
    good = json.dumps({"path": "b.wav", "sample_rate": 24000, "channels": 1, "frames": 9})
    (tmp_path / "all.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError) as caught:
        Manifest.load(tmp_path / "all.jsonl")
    assert str(caught.value).startswith(f"{tmp_path}/all.jsonl, line 2: {message}")
    assert "\n" not in str(caught.value)


FOREIGN = """{"audio_filepath": "a.wav", "duration": 0.5, "text": "Grüße", "speaker": null, "offsets": [1, 2]}\r
\r
{"path": "two\u2028lines.wav", "sample_rate": 24000.0, "channels": 1.0, "frames": 12000, "source": 2020}\r
{"path": "gone.wav", "text": "lost"}\r
"""


def test_manifests_of_other_programs_are_read(tmp_path: Path) -> None:
    """With a BOM, CRLF, U+2028 in a name, further keys, and without the numbers that are in the file itself."""
    write_noise(tmp_path / "a.wav", 0.5, 22050, 2)
    (tmp_path / "all.jsonl").write_bytes(b"\xef\xbb\xbf" + FOREIGN.encode())
    manifest = Manifest.load(tmp_path / "all.jsonl")
    first, second = manifest.entries
    assert (first.path, first.sample_rate, first.channels, first.frames) == ("a.wav", 22050, 2, 11025)
    assert first.bytes == (tmp_path / "a.wav").stat().st_size
    assert first.further == {"duration": 0.5, "text": "Grüße", "speaker": None, "offsets": [1, 2]}
    assert (second.path, second.sample_rate, second.source) == ("two\u2028lines.wav", 24000, "2020")
    assert all(isinstance(number, int) for number in (second.sample_rate, second.channels, second.frames))
    assert manifest.skipped_files == [("gone.wav", "no such file")]


def test_nothing_is_lost_when_a_manifest_is_rewritten(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 0.5)
    (tmp_path / "all.jsonl").write_bytes(FOREIGN.encode())
    manifest = Manifest.load(tmp_path / "all.jsonl")
    manifest.save(tmp_path / "deep/again.jsonl")
    again = Manifest.load(tmp_path / "deep/again.jsonl")
    assert [entry.further for entry in again.entries] == [entry.further for entry in manifest.entries]
    assert [entry.path for entry in again.entries] == ["../a.wav", "../two\u2028lines.wav"]
    assert again.skipped_further == {"../gone.wav": {"text": "lost"}}
    assert again.where(lambda entry: False).skipped_further == again.skipped_further
    again.save(tmp_path / "deep/third.jsonl")
    assert (tmp_path / "deep/third.jsonl").read_bytes() == (tmp_path / "deep/again.jsonl").read_bytes()


def test_names_that_are_not_utf8_survive_a_manifest(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff.wav")
    write_noise(tmp_path / "audio/plain.wav", 0.2)
    (tmp_path / "audio/plain.wav").rename(tmp_path / "audio" / name)
    scan_folder(tmp_path / "audio").save(tmp_path / "all.jsonl")
    written = (tmp_path / "all.jsonl").read_bytes()
    assert written.isascii()
    manifest = Manifest.load(tmp_path / "all.jsonl")
    assert [entry.path for entry in manifest.entries] == [f"audio/{name}"]
    assert os.path.isfile(manifest.path(manifest.entries[0]))
    # Another program may have written the bytes themselves.
    (tmp_path / "raw.jsonl").write_bytes(b'{"path": "audio/' + os.fsencode(name) + b'"}\n')
    raw = Manifest.load(tmp_path / "raw.jsonl")
    assert raw.entries == manifest.entries
    raw.save(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == written


def test_a_manifest_reached_by_a_link_names_its_files(tmp_path: Path) -> None:
    write_noise(tmp_path / "audio/a.wav", 0.2)
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "lists").symlink_to(tmp_path / "far/away")
    scan_folder(tmp_path / "audio").save(tmp_path / "lists/all.jsonl")
    manifest = Manifest.load(tmp_path / "lists/all.jsonl")
    assert os.path.isfile(manifest.path(manifest.entries[0]))


def test_empty_absent_and_binary_manifests(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="lists no usable file"):
        Manifest.load(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="not a readable manifest"):
        Manifest.load(tmp_path / "absent.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="line 1: expected one JSON object"):
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
    assert printed.err.startswith("skipped: b.wav: is empty")
    assert printed.err.count("\n") == 1
    assert len(Manifest.load(tmp_path / "all.jsonl").entries) == 1
    assert main([str(tmp_path / "absent"), str(tmp_path / "no.jsonl")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tmp_path / "audio"), str(tmp_path / "audio/a.wav")]) == 1
    assert "ends in .jsonl" in capsys.readouterr().err
    assert soundfile.info(tmp_path / "audio/a.wav").frames == 12000
    assert main([str(tmp_path / "audio"), str(tmp_path / "all.jsonl/below.jsonl")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/all.jsonl is a file: expected a folder\n"
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
