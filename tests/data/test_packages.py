"""The reader of Debian packages, and fetching with an apt-get that is a script of the test."""

import hashlib
import io
import logging
import os
import stat
import tarfile
from pathlib import Path

import pytest

from data import DataError
from data.packages import Package, fetch, unpack

DATA = {
    "./usr/share/words/en/a.ogg": b"word a",
    "./usr/share/words/en/b.ogg": b"word bb",
    "./usr/share/words/en/picture.png": b"picture",
    "./usr/share/doc/words/copyright": b"free",
    "./usr/share/doc/other/copyright": b"of another",
}


def make_deb(path: Path, files: dict[str, bytes], compression: str = "xz") -> Path:
    """An ar archive by hand: magic, then (60-byte header, content, padding to even length) three times."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd length!",
        f"data.tar.{compression}".rstrip("."): packed.getvalue(),
    }
    with open(path, "wb") as file:
        file.write(b"!<arch>\n")
        for name, content in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2", ""])
def test_only_paths_that_match_a_pattern_are_unpacked(tmp_path: Path, compression: str) -> None:
    deb = make_deb(tmp_path / "words_1_all.deb", DATA, compression)
    assert unpack(deb, tmp_path / "out", ("*.ogg", "*/doc/words/copyright")) == 3
    assert files_below(tmp_path / "out") == {
        "usr/share/words/en/a.ogg": b"word a",
        "usr/share/words/en/b.ogg": b"word bb",
        "usr/share/doc/words/copyright": b"free",
    }


def test_zstd_is_left_to_dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = make_deb(tmp_path / "words_1_all.deb", DATA, "")
    deb.write_bytes(deb.read_bytes().replace(b"data.tar    ", b"data.tar.zst"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"compressed with zstd.*dpkg-deb"):
        unpack(deb, tmp_path / "out", ("*.ogg",))
    with tarfile.open(tmp_path / "plain.tar", "w") as archive:
        archive.add(deb, "./usr/a.ogg")
    script = tmp_path / "dpkg-deb"
    script.write_text(f'#!/bin/sh\n[ "$1" = --fsys-tarfile ] && exec /bin/cat {tmp_path}/plain.tar\n')
    script.chmod(0o755)
    assert unpack(deb, tmp_path / "out", ("*.ogg",)) == 1
    assert files_below(tmp_path / "out") == {"usr/a.ogg": deb.read_bytes()}


@pytest.mark.parametrize("name", ["../../escaped.ogg", "/tmp/escaped.ogg"])
def test_paths_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    deb = make_deb(tmp_path / "evil_1_all.deb", {name: b"x"})
    with pytest.raises(DataError, match="outside its folder"):
        unpack(deb, tmp_path / "deep/er/out", ("*",))
    assert not list(tmp_path.rglob("escaped.ogg"))


def test_damaged_packages_are_named(tmp_path: Path) -> None:
    deb = make_deb(tmp_path / "words_1_all.deb", DATA)
    content = deb.read_bytes()
    for broken in (b"", b"text" * 30, content[:100], content[:-40], content[:300] + b"\xff" * 60 + content[360:]):
        deb.write_bytes(broken)
        with pytest.raises(DataError, match=r"words_1_all\.deb is (corrupt|not a Debian package)"):
            unpack(deb, tmp_path / "out", ("*",))


def package(deb: Path, version: str = "1:2-3") -> Package:
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    return Package(deb.name.split("_")[0], version, digest, "speech", "free", ("*.ogg",))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages. The test's apt-get copies them to the working folder and logs its calls there."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    script = tmp_path / "bin/apt-get"
    script.parent.mkdir()
    script.write_text(
        f"""#!/bin/sh
echo "$@" >> {shelf}/calls
for last; do :; done
[ "$last" = update ] && exit 0
case " $* " in *" --print-uris "*)
  [ -e {shelf}/"$last"_*.deb ] && echo "'http://x/$last.deb' $last.deb 34400000 SHA256:0" && exit 0
  exit 100 ;;
esac
cp {shelf}/"$last"_*.deb . 2>/dev/null && exit 0
echo "E: Unable to locate package $last" >&2
exit 100
"""
    )
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return shelf


def test_a_fetch_unpacks_once(shelf: Path, tmp_path: Path) -> None:
    words = package(make_deb(shelf / "words_1%3a2-3_all.deb", DATA))
    root = tmp_path / "corpus"
    assert fetch([words], root) == [words]
    assert set(files_below(root / "words")) == {
        "usr/share/words/en/a.ogg",
        "usr/share/words/en/b.ogg",
        "usr/share/doc/words/copyright",
    }
    assert sorted(path.name for path in root.iterdir()) == [".lock", "words"]
    calls = (shelf / "calls").read_text()
    assert f"Dir::State::lists={root}" in calls
    assert fetch([words], root) == [words]
    assert (shelf / "calls").read_text() == calls


def test_each_download_is_announced_with_its_size(
    shelf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packages = [package(make_deb(shelf / f"{name}_1%3a2-3_all.deb", DATA)) for name in ("a", "b")]
    unknown = Package("unknown", "1", "0", "speech", "free", ("*",))
    with caplog.at_level(logging.INFO, "data"):
        fetch([packages[0], unknown, packages[1]], tmp_path / "corpus")
    assert [message for message in caplog.messages if message.startswith("downloading")] == [
        "downloading recordings, package 1 of 3: a, 34 of 69 MB left",
        "downloading recordings, package 2 of 3: unknown",
        "downloading recordings, package 3 of 3: b, 34 of 34 MB left",
    ]


def test_a_killed_fetch_is_repaired(shelf: Path, tmp_path: Path) -> None:
    words = package(make_deb(shelf / "words_1%3a2-3_all.deb", DATA))
    root = tmp_path / "corpus"
    half = root / ".incoming-12345/words/usr/share"
    half.mkdir(parents=True)
    (half / "a.ogg").write_bytes(b"wo")
    assert fetch([words], root) == [words]
    assert sorted(path.name for path in root.iterdir()) == [".lock", "words"]
    assert (root / "words/usr/share/words/en/a.ogg").read_bytes() == b"word a"


def test_a_wrong_checksum_and_an_unknown_package_are_left_out(
    shelf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = package(make_deb(shelf / "good_1%3a2-3_all.deb", DATA))
    bad = package(make_deb(shelf / "bad_1%3a2-3_all.deb", DATA))
    (shelf / "bad_1%3a2-3_all.deb").write_bytes((shelf / "bad_1%3a2-3_all.deb").read_bytes() + b"\n")
    unknown = Package("unknown", "1", "0", "speech", "free", ("*",))
    assert fetch([unknown, bad, good], tmp_path / "corpus") == [good]
    assert not (tmp_path / "corpus/bad").exists()
    assert "unknown is left out: apt-get failed (E: Unable to locate package unknown)" in caplog.messages
    assert any(message.startswith("bad is left out: the checksum of version 1:2-3 is") for message in caplog.messages)


def test_another_version_is_used_with_a_warning(shelf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deb = make_deb(shelf / "words_1%3a2-4_all.deb", DATA)
    words = package(deb)
    with caplog.at_level(logging.WARNING):
        assert fetch([words], tmp_path / "corpus") == [words]
    assert len(caplog.messages) == 1
    assert "1:2-4, expected 1:2-3" in caplog.messages[0]


def test_a_machine_without_apt_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="there is no apt-get on this machine"):
        fetch([Package("words", "1", "0", "speech", "free", ("*",))], tmp_path / "corpus")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/corpus: cannot be written"):
        fetch([], tmp_path / "file/corpus")
