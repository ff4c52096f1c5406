"""Files that take the place of others: whole, where links point, and as readable as any file."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

import pytest
import torch
from safetensors.torch import save_file

from codec.atomic_file import replacing


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("_umask")
def test_a_new_file_may_be_read_by_those_who_may_read_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with replacing(path) as beside:
        save_file({"weight": torch.zeros(1)}, beside)
    assert mode(path) == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("kept", [0o600, 0o664])
def test_a_file_that_is_replaced_keeps_its_readers(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    path.chmod(kept)
    with replacing(path) as beside:
        save_file({"weight": torch.zeros(1)}, beside)
    assert mode(path) == kept
    assert path.read_bytes() != b"old"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_text(str(1 / 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    path, left = tmp_path / "notes.txt", tmp_path / "notes.txt.partial"
    left.write_text("half of an older file")
    left.chmod(0o600)
    with replacing(path) as beside, beside.open("a") as file:
        assert beside == left
        file.write("new")
    assert path.read_text() == "new"
    (tmp_path / "other").touch()
    assert mode(path) == mode(tmp_path / "other")


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "folder" / "notes.txt")
    with replacing(link) as beside:
        beside.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "folder" / "notes.txt").read_text() == "new"


def test_a_folder_and_a_path_without_one_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "not a plain file"), (tmp_path / "no" / "notes.txt", "there is no folder")):
        with pytest.raises(OSError, match=message), replacing(path):
            pass
