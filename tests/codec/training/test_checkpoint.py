"""A checkpoint comes back bit for bit, or is reported; no kill, damage or full disk costs more than the newest one."""

import errno
import json
import os
import random
import resource
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from codec.model_file import save_model
from codec.training.checkpoint import file as checkpoint_file
from codec.training.checkpoint.file import Label, write_archive
from codec.training.checkpoint.store import Checkpoint, CheckpointError, CheckpointStore


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        same_kind = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return same_kind and a.detach().numpy(force=True).tobytes() == b.detach().numpy(force=True).tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and (a == b or a != a)


def _steps(store: CheckpointStore) -> list[int]:
    return [int(path.stem.removeprefix("step_")) for path in store.paths()]


def _store(folder: Path, **settings: Any) -> tuple[CheckpointStore, list[str]]:
    reports: list[str] = []
    return CheckpointStore(folder, report=reports.append, **settings), reports


# ------------------------------------------------------------------------------------------------ what is stored


def test_a_training_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
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
        "numbers": (0.1, float("nan"), float("inf"), -0.0, True, None),
        "text": "Défossez\n",
        "view": torch.arange(12).view(3, 4).t()[1:, ::2],
        "empty": torch.empty(0, 7),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "ordered": OrderedDict(b=1, a=2),
        5: {"nested": [{"deeper": (torch.randn(2, dtype=torch.float64), torch.tensor([True, False]))}]},
    }
    store, reports = _store(tmp_path)
    store.save(7, state)

    found = store.load_newest()
    assert found is not None
    assert found.step == 7
    assert _equal(found.state, state | {"parameter": state["parameter"].detach()})
    assert reports == []
    fresh = torch.optim.AdamW(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).parameters())
    fresh.load_state_dict(found.state["optimizer"])
    assert _equal(fresh.state_dict(), optimizer.state_dict())


def test_bfloat16_comes_back_bit_for_bit(tmp_path: Path) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)  # every bfloat16, all NaNs among them
    store, _ = _store(tmp_path)
    store.save(1, {"x": bits.view(torch.bfloat16)})
    found = store.load_newest()
    assert found is not None
    assert found.state["x"].dtype == torch.bfloat16
    assert torch.equal(found.state["x"].view(torch.int16), bits)


def test_the_file_is_an_ordinary_torch_archive(tmp_path: Path) -> None:
    store, _ = _store(tmp_path)
    path = store.save(12, {"x": torch.arange(5)}, score=0.25)
    assert path == tmp_path / "step_0000012.pt"
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.arange(5))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.comment.rpartition(b" ")[0]) == {"format": 1, "step": 12, "score": 0.25}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(1.0), r"state\['a'\]\[0\] is a numpy.float64, wanted tensors, bool, int, float, str, None"),
        (np.zeros(3), r"state\['a'\]\[0\] is a numpy.ndarray"),
        (nn.Linear(1, 1), r"state\['a'\]\[0\] is a torch.nn.modules.linear.Linear"),
        ({1.5: 0}, r"state\['a'\]\[0\] has the key 1.5, wanted a str or int"),
        (Path("x"), r"is a pathlib.PosixPath"),
        (b"bytes", r"is a builtins.bytes"),
        (Label(1, None), r"is a codec.training.checkpoint_file.Label"),
        (torch.empty(3, device="meta"), r"on meta, wanted a dense one with data"),
        (torch.eye(3).to_sparse(), r"is a torch.sparse_coo tensor"),
    ],
)
def test_what_could_not_be_loaded_is_refused_when_saved(tmp_path: Path, value: object, message: str) -> None:
    store, _ = _store(tmp_path)
    with pytest.raises(TypeError, match=message):
        store.save(1, {"a": [value]})
    assert list(tmp_path.iterdir()) == []


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last must be 1 or more, got 0"):
        CheckpointStore(tmp_path, keep_last=0)
    with pytest.raises(ValueError, match="keep_every must be 1 or more, or None, got 0"):
        CheckpointStore(tmp_path, keep_every=0)
    with pytest.raises(ValueError, match="step must be 0 or more, got -1"):
        CheckpointStore(tmp_path).save(-1, {})


# ------------------------------------------------------------------------------------------------ which are kept


def test_there_is_nothing_to_load_at_first(tmp_path: Path) -> None:
    store, _ = _store(tmp_path / "runs" / "new")
    assert store.load_newest() is None
    assert store.load_best() is None
    assert store.best_score() is None
    store.save(1, {"x": 1})
    assert store.load_newest() == Checkpoint(1, {"x": 1})


def test_the_newest_and_every_mth_are_kept(tmp_path: Path) -> None:
    store, _ = _store(tmp_path, keep_last=2, keep_every=100)
    for step in range(30, 331, 30):
        store.save(step, {"step": step})
    store.save(10_000_000, {"step": 10_000_000})
    assert _steps(store) == [300, 330, 10_000_000]
    assert store.load_newest() == Checkpoint(10_000_000, {"step": 10_000_000})


def test_wanted_ones_are_kept_as_long_as_they_are_wanted(tmp_path: Path) -> None:
    store, _ = _store(tmp_path, keep_last=1)
    for step in range(1, 7):
        store.save(step, {"step": step}, wanted={2, 3} if step < 6 else {3})
    assert _steps(store) == [3, 6]
    assert store.steps() == {3, 6}


def test_one_can_be_read_by_its_step_and_all_later_ones_forgotten(tmp_path: Path) -> None:
    store, reports = _store(tmp_path, keep_last=9)
    for step in range(1, 6):
        store.save(step, {"step": step}, score=9.0 - step)
    assert store.load(3) == Checkpoint(3, {"step": 3})
    store.forget_after(3)
    assert _steps(store) == [1, 2, 3]
    assert store.load_best() == Checkpoint(5, {"step": 5})
    for missing in (4, 0):
        with pytest.raises(CheckpointError, match=rf"step_000000{missing}\.pt cannot be used"):
            store.load(missing)
    assert reports == []


def test_the_best_outlives_its_turn(tmp_path: Path) -> None:
    store, _ = _store(tmp_path, keep_last=1)
    scores = [5.0, 3.0, None, 4.0, float("nan"), 3.0, float("-inf")]
    for step, score in enumerate(scores):
        store.save(step, {"step": step}, score)
    assert _steps(store) == [6]
    assert store.load_best() == Checkpoint(1, {"step": 1})
    # A new process knows the score to beat.
    again, _ = _store(tmp_path, keep_last=1)
    assert again.best_score() == 3.0
    save_model(again, 7, {"step": 7}, 3.5)
    assert again.load_best() == Checkpoint(1, {"step": 1})
    save_model(again, 8, {"step": 8}, 2.5)
    assert again.load_best() == Checkpoint(8, {"step": 8})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step_0000008.pt"]


def test_the_best_is_kept_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store, _ = _store(tmp_path, keep_last=1)
    store.save(1, {"step": 1}, 1.0)
    store.save(2, {"step": 2}, 2.0)
    assert store.load_best() == Checkpoint(1, {"step": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step_0000002.pt"]


def test_a_damaged_best_is_reported_and_replaced(tmp_path: Path) -> None:
    store, reports = _store(tmp_path)
    store.save(1, {"x": torch.zeros(1000)}, 1.0)
    _flip(store.best_path, 2000)
    with pytest.raises(CheckpointError, match=r"best\.pt cannot be used: it is damaged, its checksum"):
        store.load_best()
    store.save(2, {"step": 2}, 9.0)
    assert len(reports) == 1
    assert "best.pt will be replaced: it is damaged" in reports[0]
    assert store.load_best() == Checkpoint(2, {"step": 2})


def test_a_kill_before_the_best_was_named_is_made_up_for(tmp_path: Path) -> None:
    store, _ = _store(tmp_path)
    store.save(1, {"step": 1}, 2.0)
    before = store.best_path.read_bytes()
    store.save(2, {"step": 2}, 1.0)
    store.best_path.unlink()  # a second name of the checkpoint: what is written to it changes both
    store.best_path.write_bytes(before)
    assert store.load_best() == Checkpoint(1, {"step": 1})
    store.complete(2)
    assert store.load_best() == Checkpoint(2, {"step": 2})
    for step, score in ((3, 3.0), (4, None)):
        store.save(step, {"step": step}, score)
        store.complete(step)
        assert store.load_best() == Checkpoint(2, {"step": 2})
    with pytest.raises(CheckpointError, match=r"best\.pt beside .*step_0000009\.pt could not be brought up to date"):
        store.complete(9)


def test_a_step_saved_again_replaces_itself(tmp_path: Path) -> None:
    store, _ = _store(tmp_path)
    store.save(1, {"x": "first"}, 1.0)
    store.save(1, {"x": "second"}, 0.5)
    store.save(1, {"x": "third"}, 0.5)
    assert store.load_newest() == Checkpoint(1, {"x": "third"})
    assert store.load_best() == Checkpoint(1, {"x": "second"})


def test_nothing_is_removed_before_the_new_one_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = _store(tmp_path, keep_last=1)
    store.save(1, {})
    calls: list[str] = []

    def spy(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
            calls.append(f"{name} folder" if is_folder else name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    spy(os, "fsync")
    spy(os, "replace")
    spy(Path, "unlink")
    store.save(2, {})
    assert calls == ["fsync", "replace", "fsync folder", "unlink"]


# ------------------------------------------------------------------------------------------------ damage


def _flip(path: Path, position: int, mask: int = 0x10) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flipped bit":
        _flip(path, len(content) // 2)
    elif how == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif how == "one byte short":
        path.write_bytes(content[:-1])
    elif how == "one byte more":
        path.write_bytes(content + b"\n")
    elif how == "zero length":
        path.write_bytes(b"")
    elif how == "zeroed":  # what a file system may leave after a loss of power
        path.write_bytes(bytes(len(content)))
    elif how == "text":
        path.write_text("This is not a checkpoint.\n" * 100)
    elif how == "foreign archive":
        torch.save({"x": torch.zeros(1000)}, path)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "of another version":
        path.write_bytes(content.replace(b'{"format": 1,', b'{"format": 2,'))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("flipped bit", "it is damaged, its checksum does not match"),
        ("truncated", "it is cut short or no checkpoint"),
        ("one byte short", "it is damaged"),
        ("one byte more", "it is damaged"),
        ("zero length", "it is cut short or no checkpoint, 0 bytes"),
        ("zeroed", "it is cut short or no checkpoint"),
        ("text", "it is cut short or no checkpoint, 2600 bytes"),
        ("foreign archive", "it is damaged or was not written by this project"),
        ("folder", "it cannot be read, Is a directory"),
        ("of another version", "it is of format 2, wanted 1"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path: Path, how: str, reason: str) -> None:
    store, reports = _store(tmp_path)
    store.save(1, {"x": torch.ones(1000)})
    path = store.save(2, {"x": torch.full((1000,), 2.0)})
    _damage(path, how)

    found = store.load_newest()

    assert found is not None
    assert found.step == 1
    assert torch.equal(found.state["x"], torch.ones(1000))
    assert len(reports) == 1
    assert reports[0].startswith(f"checkpoint {path} is not used: {reason}")


def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    store, reports = _store(tmp_path)
    path = store.save(1, {"x": torch.arange(20), "n": 3}, 0.5)
    content = path.read_bytes()
    draw = random.Random(0)
    end = len(content) - 250  # the checksum and all that leads to it: every byte; before, a sample
    positions = [*range(0, end, 13), *range(end, len(content))]
    for position in positions:
        _flip(path, position, 1 << draw.randrange(8))
        with pytest.raises(CheckpointError, match="none of the 1 checkpoint"):
            store.load_newest()
        path.write_bytes(content)
    assert len(reports) == len(positions)
    assert store.load_newest() is not None


def test_when_all_are_damaged_the_run_does_not_start_again_silently(tmp_path: Path) -> None:
    store, reports = _store(tmp_path)
    for step in (1, 2):
        _damage(store.save(step, {"step": step}), "truncated")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoint\(s\) in .* can be read; move them away"):
        store.load_newest()
    assert len(reports) == 2


def test_a_damaged_checkpoint_does_not_push_out_sound_ones(tmp_path: Path) -> None:
    store, reports = _store(tmp_path, keep_last=1)
    store.save(10, {"step": 10})
    store.keep_last = 2
    _damage(store.save(20, {"step": 20}), "flipped bit")
    store.keep_last = 1
    assert store.load_newest() == Checkpoint(10, {"step": 10})

    store.save(15, {"step": 15})  # the run goes on from step 10, and by the number 20 is still the newest

    assert store.load_newest() == Checkpoint(15, {"step": 15})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000015.pt", "step_0000020.pt.set_aside"]
    assert "step_0000020.pt is later than step 15: renamed" in reports[1]


class _Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_a_malicious_file_runs_no_code(tmp_path: Path) -> None:
    store, reports = _store(tmp_path / "run")
    store.save(1, {"step": 1})
    target = tmp_path / "owned"
    path = store.folder / "step_0000002.pt"
    with open(path, "wb") as file:  # with a checksum that is right
        write_archive(file, {"x": _Payload(target)}, Label(2, None))
    torch.load(path, weights_only=False)
    assert target.exists(), "the payload must be a live one"
    target.unlink()

    assert store.load_newest() == Checkpoint(1, {"step": 1})

    assert not target.exists()
    assert "torch refuses it as unsafe or malformed" in reports[0]


@pytest.mark.parametrize(
    ("state", "label", "reason"),
    [
        ([1, 2], Label(2, None), "it holds a list, wanted a dict"),
        ({}, Label("2", None), "its label is wrong: step '2'"),  # type: ignore[arg-type]
        ({}, Label(2, "good"), "its label is wrong: step 2, score 'good'"),  # type: ignore[arg-type]
    ],
)
def test_a_file_of_the_wrong_kind_is_reported(tmp_path: Path, state: Any, label: Label, reason: str) -> None:
    store, reports = _store(tmp_path)
    store.save(1, {"step": 1})
    with open(tmp_path / "step_0000002.pt", "wb") as file:
        write_archive(file, state, label)
    assert store.load_newest() == Checkpoint(1, {"step": 1})
    assert reason in reports[0]


# ------------------------------------------------------------------------------------------------ failing writes


def test_a_write_that_fails_half_way_costs_nothing(tmp_path: Path) -> None:
    store, reports = _store(tmp_path)
    store.save(1, {"x": torch.ones(1000)}, 1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The operating system refuses any file beyond 100 kB: a real error in the middle of a real write.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"the checkpoint of step 2 could not be written .* File too large"):
            store.save(2, {"x": torch.zeros(250_000)}, 0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert reports == []
    store.save(2, {"x": torch.zeros(250_000)}, 0.5)
    found = store.load_best()
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    store, _ = _store(tmp_path)
    store.save(1, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if moment == "write":
        monkeypatch.setattr(checkpoint_file.torch, "save", full)
    else:
        monkeypatch.setattr(os, moment, full)
    sentence = (
        rf"the checkpoint of step 2 could not be written to {tmp_path}: No space left on device "
        r"\(8,012 bytes wanted, [\d,]+ free\); earlier checkpoints are intact"
    )
    with pytest.raises(CheckpointError, match=f"^{sentence}$"):
        store.save(2, {"x": torch.zeros(2000), "y": [{"z": torch.zeros(3)}]})
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001.pt"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store, _ = _store(tmp_path / "file" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"could not be written to .*: Not a directory"):
        store.save(1, {})


def test_a_failure_after_the_write_says_that_the_checkpoint_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = _store(tmp_path, keep_last=1)
    store.save(1, {})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(CheckpointError, match=r"the checkpoint of step 2 is safe in .*step_0000002\.pt, but"):
            store.save(2, {"step": 2})
    assert store.load_newest() == Checkpoint(2, {"step": 2})


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    store, _ = _store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.save(1, {})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ kill -9

_KILLED_WRITERS = """
import os, random, signal, sys, time
import torch
from codec.training.checkpoint.store import CheckpointStore

torch.set_num_threads(1)
folder, draw = sys.argv[1], random.Random(0)
store = CheckpointStore(folder, keep_last=2, report=lambda text: print("REPORT", text))
half_written = 0
for victim in range(15):
    found = store.load_newest()
    step = found.step if found else 0
    receipts, receipt = os.pipe()
    writer = os.fork()
    if not writer:
        while True:
            step += 1
            state = {"step": step, "weights": [torch.full((20_000,), float(step)) for _ in range(5)]}
            store.save(step, state, score=-step)
            os.write(receipt, b"%d\\n" % step)
    os.close(receipt)
    lines = os.fdopen(receipts)
    promised = [int(lines.readline())]
    begun = time.monotonic()
    promised.append(int(lines.readline()))
    time.sleep(draw.uniform(0, 2 * (time.monotonic() - begun)))  # anywhere in the next two writes
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    promised += map(int, lines.read().split())
    half_written += any(name.endswith(".partial") for name in os.listdir(folder) if name.startswith(".step"))
    for found in (store.load_newest(), store.load_best()):
        assert found, "what was saved is gone"
        assert found.step >= promised[-1], (found.step, promised)
        assert found.state["step"] == found.step
        assert all(bool((w == found.step).all()) and len(w) == 20_000 for w in found.state["weights"])
    assert len(store.paths()) <= 4, store.paths()
print("steps", store.load_newest().step, "half-written files", half_written)
"""


def test_a_kill_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path: Path) -> None:
    # One process imports torch once and then, 15 times, forks a writer, kills it in the middle and looks.
    result = subprocess.run(
        [sys.executable, "-c", _KILLED_WRITERS, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    words = result.stdout.split()
    assert "REPORT" not in words  # nothing that carries a checkpoint's name was ever half-written
    assert int(words[1]) >= 30
    assert int(words[-1]) > 0  # the kills did strike in the middle of a write
