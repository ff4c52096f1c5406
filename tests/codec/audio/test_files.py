"""The search for audio: every name and every kind of file that a folder may hold."""

import os
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from codec.audio import AUDIO_SUFFIXES, Skipped, describe_skipped, find_audio, find_files, readable
from codec.audio import files as module

LATIN_1 = os.fsdecode(b"caf\xe9.wav")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(root: Path, files: list[Path]) -> list[str]:
    return [str(path.relative_to(root)) for path in files]


def test_any_name_is_found_in_a_fixed_order(tmp_path: Path) -> None:
    long = "x" * 251 + ".wav"
    odd = ["日本/hörspiel (1) = a.wav", LATIN_1, "line\nbreak.flac", "two\u2028lines.ogg", long, " .wav", "a.B.OPUS"]
    touch(tmp_path, *odd)
    found = find_audio(tmp_path)
    assert names(tmp_path, found.files) == sorted(odd)
    assert found.skipped == []
    assert all(path.is_file() for path in found.files)
    assert find_audio(str(tmp_path)) == found


def test_suffixes_in_any_case_and_formats_that_cannot_be_decoded(tmp_path: Path) -> None:
    taken = ["a.WAV", "b.wave", "c.Aiff", "d.caf", "e.mp3", "f.bwf"]
    touch(tmp_path, *taken, "notes.txt", "wav", "song.M4A", "more/talk.wma", "data.mat", "x.raw")
    found = find_audio(tmp_path)
    assert names(tmp_path, found.files) == taken
    assert names(tmp_path, [path for path, _ in found.skipped]) == ["more/talk.wma", "song.M4A"]
    assert "ffmpeg -i in.m4a out.flac" in found.skipped[1].reason
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in AUDIO_SUFFIXES)


def test_hidden_files_resource_forks_and_trash_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "x.wav", "._x.wav", ".hidden.wav", ".Trash-1000/files/old.wav", ".Trashes/501/old.wav")
    touch(tmp_path, "$RECYCLE.BIN/S-1/old.wav", "__MACOSX/x.wav", "lost+found/1.wav")
    assert find_audio(tmp_path) == ([tmp_path / "x.wav"], [])


def test_a_hidden_root_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/x.wav")
    assert find_audio(tmp_path / ".cache").files == [tmp_path / ".cache/x.wav"]


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/b.wav", "corpus/real/a.wav")
    corpus = tmp_path / "corpus"
    (corpus / "a link before").symlink_to(corpus / "real")  # already reached by its own name
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    (corpus / "linked again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(corpus)
    (corpus / "self").symlink_to("self")
    (corpus / "file.wav").symlink_to(corpus / "real/a.wav")
    (corpus / "loop.wav").symlink_to("loop.wav")
    (corpus / "gone.wav").symlink_to("nowhere.wav")
    (corpus / "gone.txt").symlink_to("nowhere.txt")
    found = find_audio(corpus)
    assert names(corpus, found.files) == ["file.wav", "linked/b.wav", "real/a.wav"]
    assert names(corpus, [path for path, _ in found.skipped]) == ["gone.wav", "loop.wav"]
    assert all(reason.startswith("a broken link") for _, reason in found.skipped)


def test_two_roots_that_overlap_give_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.wav", "a/2.wav", "a/deep/3.wav")
    found = find_audio([tmp_path / "b", tmp_path / "a", tmp_path / "a/deep", tmp_path / "b/1.wav"])
    assert names(tmp_path, found.files) == ["b/1.wav", "a/2.wav", "a/deep/3.wav"]


def test_only_plain_files_are_taken_and_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 bytes
    touch(tmp_path, "a.wav", "folder.wav/b.wav")
    os.mkfifo("c.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("d.wav")
        Path("e.wav").symlink_to("/dev/zero")
        os.mkfifo("pipe.txt")
        found = find_audio(".")
    assert names(Path(), found.files) == ["a.wav", "folder.wav/b.wav"]
    assert [(str(path), reason.rpartition("it is ")[2]) for path, reason in found.skipped] == [
        ("c.wav", "a named pipe"),
        ("d.wav", "a socket"),
        ("e.wav", "a device"),
    ]


def test_a_folder_that_cannot_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.wav", "closed/2.wav", "z/3.wav")
    scan = os.scandir

    def refuse(path: str) -> "os.ScandirIterator[str]":  # a test that runs as root can read every folder
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_audio(tmp_path)
    assert names(tmp_path, found.files) == ["a/1.wav", "z/3.wav"]
    assert found.skipped == [Skipped(tmp_path / "closed", "the folder cannot be read (Permission denied)")]


def test_files_given_by_name_and_roots_that_are_none(tmp_path: Path) -> None:
    touch(tmp_path, "speech.data")
    assert find_audio(tmp_path / "speech.data") == ([tmp_path / "speech.data"], [])
    with pytest.raises(FileNotFoundError) as caught:
        find_audio([tmp_path, tmp_path / "absent"])
    assert caught.value.filename == str(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="expected a file or a folder, it is a named pipe"):
        find_audio(tmp_path / "pipe")


def test_other_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "a.ECDC", "b.wav", "c.m4a")
    assert find_files(tmp_path, frozenset({".ecdc"})) == ([tmp_path / "a.ECDC"], [])


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("日本 hörspiel (1).wav", "日本 hörspiel (1).wav"),
        (LATIN_1, "caf\\xe9.wav"),
        (b"caf\xe9.wav", "caf\\xe9.wav"),
        (Path("a\nb\t\x1b[31m.wav"), "a\\nb\\t\\x1b[31m.wav"),
        ("a\u2028b\u202eavi.wav", "a\\u2028b\\u202eavi.wav"),
        ("lone \ud800.wav", "lone \\ud800.wav"),
    ],
)
def test_every_name_is_one_printable_line(name: str | bytes | Path, printed: str) -> None:
    assert readable(name) == printed
    assert readable(name).isprintable()
    readable(name).encode("utf-8")


def test_every_character_is_printed_in_one_line() -> None:
    codes = [*range(0x11000), *range(0x1D000, 0x1D200), *range(0xE0000, 0xE0200), sys.maxunicode]
    text = readable("".join(map(chr, codes)))
    assert len(text.splitlines()) == 1
    assert not {unicodedata.category(character) for character in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_the_list_of_skipped_files_is_short() -> None:
    skipped = [("a.m4a", "no"), (LATIN_1, "damaged"), ("b.m4a", "no")]
    assert describe_skipped(skipped) == ["a.m4a and 1 more: no", "caf\\xe9.wav: damaged"]
    many = describe_skipped((f"{number}.wav", f"reason {number}") for number in range(300))
    assert len(many) == 11
    assert many[-1] == "and 290 more files, for other reasons"


def test_names_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    touch(tmp_path, "ö.wav", LATIN_1)
    code = (
        "import runpy, sys; files = runpy.run_path(sys.argv[1]); "
        "print(*map(files['readable'], files['find_audio'](sys.argv[2]).files))"
    )
    command = [sys.executable, "-c", code, module.__file__, tmp_path]
    done = subprocess.run(command, env={"LC_ALL": "C"}, capture_output=True, check=True)
    assert [Path(line).name for line in done.stdout.decode().split()] == ["caf\\xe9.wav", "ö.wav"]
