"""Complete files, symbolic links, permissions, folders that are not left empty."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

import pytest
import torch
from safetensors.torch import save_file

from codec.atomic_file import atomic_write, new_folder, write_files


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("_umask")
def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with atomic_write(path) as temporary:
        save_file({"weight": torch.zeros(1)}, temporary)
    assert mode(path) == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("kept", [0o600, 0o664])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    path.chmod(kept)
    with atomic_write(path) as temporary:
        save_file({"weight": torch.zeros(1)}, temporary)
    assert mode(path) == kept
    assert path.read_bytes() != b"old"


def test_an_error_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    path, left = tmp_path / "notes.txt", tmp_path / "notes.txt.partial"
    left.write_text("half of an older file")
    left.chmod(0o600)
    with atomic_write(path) as temporary, temporary.open("a") as file:
        assert temporary == left
        file.write("new")
    assert path.read_text() == "new"
    (tmp_path / "other").touch()
    assert mode(path) == mode(tmp_path / "other")


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "folder" / "notes.txt")
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "folder" / "notes.txt").read_text() == "new"


@pytest.mark.parametrize(("name", "message"), [(".", "not a regular file"), ("no/notes.txt", "there is no folder")])
def test_a_folder_as_target_and_a_missing_folder_are_errors(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(OSError, match=message), atomic_write(tmp_path / name):
        pass


@pytest.mark.parametrize("name", ["a" * 251 + ".wav", "ä" * 127, os.fsdecode(b"caf\xe9" * 63)])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    assert 252 <= len(os.fsencode(name)) <= 255
    with atomic_write(tmp_path / name) as temporary:
        assert len(os.fsencode(temporary.name)) <= 255
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_write_error_names_the_file_and_leaves_the_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(path), open("/dev/full", "w") as device:
        device.write("new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_text_of_a_write_error_has_one_name(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space left on device: '{tmp_path / 'a'}'"


def test_a_folder_that_cannot_be_written_is_an_error_with_the_name_of_the_file() -> None:
    with pytest.raises(OSError, match="No such file") as caught, atomic_write(Path("/proc/notes.txt")):
        pass
    assert caught.value.filename == "/proc/notes.txt"


def test_a_new_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "old", tmp_path / "a/b", tmp_path / "old/c"):
        with pytest.raises(ZeroDivisionError), new_folder(folder):
            (folder / "file").write_text(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    with new_folder(tmp_path / "a/b"):
        (tmp_path / "a/b/file").touch()
    assert (tmp_path / "a/b/file").exists()


def test_of_several_files_all_or_none_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new/folder"
    written = write_files(folder, {"a": b"1", "b": b"2"})
    assert [(path, path.read_bytes()) for path in written] == [(folder / "a", b"1"), (folder / "b", b"2")]
    write = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if content == b"4":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    for into in (folder, tmp_path / "other/folder"):
        with pytest.raises(OSError, match="No space left on device"):
            write_files(into, {"a": b"3", "b": b"4"})
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        "new", "new/folder", "new/folder/a", "new/folder/b",
    }  # fmt: skip
    assert [path.read_bytes() for path in written] == [b"1", b"2"]
