"""One checkpoint file: every state is read back bit for bit, and damage never passes unnoticed."""

import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from codec.checkpoint_file import Checkpoint, CheckpointError, read_checkpoint, read_score, write_checkpoint
from tiny_run import differences


def flip_bit(path: Path, position: int, mask: int = 0x10) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


def test_a_training_state_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.5, 0.9))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": next(model.parameters()),
        "generator": torch.get_rng_state(),
        "python_generator": random.getstate(),
        "large": [2**53 + 1, 2**64 + 1, -(2**200)],
        "numbers": (0.1, float("inf"), -0.0, True, None),
        "text": "Défossez\n",
        "view": torch.arange(12).view(3, 4).t()[1:, ::2],
        "empty": torch.empty(0, 7),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "ordered": OrderedDict(b=1, a=2),
        5: {"nested": [{"deeper": (torch.randn(2, dtype=torch.float64), torch.tensor([True, False]))}]},
    }
    path = tmp_path / "x.pt"
    write_checkpoint(path, Checkpoint(7, state, 0.25))  # type: ignore[arg-type]
    found = read_checkpoint(path)
    assert (found.step, found.score, read_score(path)) == (7, 0.25, 0.25)
    assert differences(found.state, state) == []
    assert str(found.state["numbers"][2]) == "-0.0"
    fresh = torch.optim.AdamW(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).parameters())
    fresh.load_state_dict(found.state["optimizer"])
    assert differences(fresh.state_dict(), optimizer.state_dict()) == []


def test_every_bfloat16_value_is_read_back(tmp_path: Path) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)  # including every NaN
    write_checkpoint(tmp_path / "x.pt", Checkpoint(1, {"x": bits.view(torch.bfloat16)}))
    found = read_checkpoint(tmp_path / "x.pt").state["x"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.view(torch.int16), bits)


def test_the_file_is_an_ordinary_torch_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_checkpoint(path, Checkpoint(12, {"x": torch.arange(5)}, 0.25))
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["state"]["x"], torch.arange(5))
    assert (content["step"], content["score"]) == (12, 0.25)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.float64(1.0), "numpy"),
        (np.zeros(3), "numpy"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (Path("x"), "pathlib"),
        (Checkpoint(1, {}), "codec.checkpoint_file.Checkpoint"),
    ],
)
def test_a_value_that_could_not_be_loaded_is_refused_when_it_is_written(tmp_path: Path, value: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"holds {name}\S* in state\.a\.1, expected only tensors, numbers"):
        write_checkpoint(tmp_path / "x.pt", Checkpoint(1, {"a": [0, value]}))
    assert not list(tmp_path.iterdir())


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    """A sample of the records, and every byte of the ZIP directory after them.

    A few flips, for example in a time stamp, change nothing. Mask 0x10 marks a record as a folder.
    """
    path = tmp_path / "x.pt"
    checkpoint = Checkpoint(1, {"x": torch.arange(20), "n": 3, "more": [torch.rand(3, 3), torch.rand(1)]}, 0.5)
    write_checkpoint(path, checkpoint)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    positions = [*range(0, directory, 17), *range(directory, len(content))]
    noticed = 0
    for position in positions:
        flip_bit(path, position, 0x10)
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            noticed += 1
        else:
            assert differences(found._asdict(), checkpoint._asdict()) == [], position
        path.write_bytes(content)
    assert noticed > len(positions) / 2


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_a_malicious_file_runs_no_code(tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "x.pt"
    torch.save(Checkpoint(2, {"x": Payload(target)})._asdict(), path)
    torch.load(path, weights_only=False)
    assert target.exists(), "the payload must work"
    target.unlink()
    for read in (read_checkpoint, read_score):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"x": torch.zeros(3)},
        {"step": "2", "state": {}, "score": None},
        {"step": 2, "state": [], "score": None},
        {"step": 2, "state": {}, "score": "good"},
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt is not a checkpoint"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (bytes(5000), "cannot be read"),
        (b"This is not a checkpoint.\n" * 100, "cannot be read"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pt {reason}"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    for name, reason in (("folder.pt", "Is a directory"), ("missing.pt", "No such file")):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read: .*{reason}"):
            read_checkpoint(tmp_path / name)
