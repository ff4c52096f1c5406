"""The checkpoints of a run: which are kept, and that no kill, damage or full disk costs more than the newest one."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codec import checkpoint_file
from codec.checkpoint_file import Checkpoint, CheckpointError, read_score
from codec.training.checkpoint.store import CheckpointStore


def _steps(store: CheckpointStore) -> list[int]:
    return [int(path.stem.removeprefix("step_")) for path in store.paths()]


def _store(folder: Path, **settings: Any) -> tuple[CheckpointStore, list[str]]:
    reports: list[str] = []
    return CheckpointStore(folder, report=reports.append, **settings), reports


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoints\.keep_last must be a whole number in \[1, inf\), got 0"):
        CheckpointStore(tmp_path, keep_last=0)
    with pytest.raises(ValueError, match=r"checkpoints\.keep_every must be a whole number in \[1, inf\), got 0"):
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


def test_the_newest_and_those_at_multiples_of_keep_every_are_kept(tmp_path: Path) -> None:
    store, _ = _store(tmp_path, keep_last=2, keep_every=100)
    for step in range(30, 331, 30):
        store.save(step, {"step": step})
    store.save(10_000_000, {"step": 10_000_000})
    assert _steps(store) == [300, 330, 10_000_000]
    assert store.load_newest() == Checkpoint(10_000_000, {"step": 10_000_000})


def test_protected_checkpoints_are_kept_while_they_are_protected(tmp_path: Path) -> None:
    store, _ = _store(tmp_path, keep_last=1)
    for step in range(1, 7):
        store.save(step, {"step": step}, protected={2, 3} if step < 6 else {3})
    assert _steps(store) == [3, 6]
    assert store.steps() == {3, 6}


def test_a_checkpoint_is_loaded_by_its_step_and_later_ones_are_removed(tmp_path: Path) -> None:
    store, reports = _store(tmp_path, keep_last=9)
    for step in range(1, 6):
        store.save(step, {"step": step}, score=9.0 - step)
    assert store.load(3) == Checkpoint(3, {"step": 3}, 6.0)
    store.remove_after(3)
    assert _steps(store) == [1, 2, 3]
    assert store.load_best() == Checkpoint(5, {"step": 5}, 4.0)
    for missing in (4, 0):
        with pytest.raises(CheckpointError, match=rf"step_000000{missing}\.pt cannot be read"):
            store.load(missing)
    assert reports == []


def test_the_best_checkpoint_is_kept_after_newer_ones(tmp_path: Path) -> None:
    store, _ = _store(tmp_path, keep_last=1)
    scores = [5.0, 3.0, None, 4.0, float("nan"), 3.0, float("-inf")]
    for step, score in enumerate(scores):
        store.save(step, {"step": step}, score)
    assert _steps(store) == [6]
    assert store.load_best() == Checkpoint(1, {"step": 1}, 3.0)
    # A new process reads the best score from the file.
    again, _ = _store(tmp_path, keep_last=1)
    assert again.best_score() == 3.0
    again.save(7, {"step": 7}, 3.5)
    assert again.load_best() == Checkpoint(1, {"step": 1}, 3.0)
    again.save(8, {"step": 8}, 2.5)
    assert again.load_best() == Checkpoint(8, {"step": 8}, 2.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step_0000008.pt"]


def test_the_best_score_is_read_from_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _store(tmp_path)[0].save(1, {"step": 1}, 3.0)
    store, _ = _store(tmp_path)
    reads: list[Path] = []

    def read(path: Path) -> float | None:
        reads.append(path)
        return read_score(path)

    monkeypatch.setattr("codec.training.checkpoint.store.read_score", read)
    for step, score in enumerate((4.0, 5.0, 2.0, 2.5), 2):
        store.save(step, {"step": step}, score)
    assert reads == [store.best_path]
    assert store.load_best() == Checkpoint(4, {"step": 4}, 2.0)


def test_the_best_is_kept_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store, _ = _store(tmp_path, keep_last=1)
    store.save(1, {"step": 1}, 1.0)
    store.save(2, {"step": 2}, 2.0)
    assert store.load_best() == Checkpoint(1, {"step": 1}, 1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step_0000002.pt"]


def test_a_damaged_best_is_reported_and_replaced(tmp_path: Path) -> None:
    store, reports = _store(tmp_path)
    store.save(1, {"x": torch.zeros(1000)}, 1.0)
    _flip(store.best_path, 2000)
    with pytest.raises(CheckpointError, match=r"best\.pt is corrupt: the checksum of"):
        store.load_best()
    store.save(2, {"step": 2}, 9.0)
    assert len(reports) == 1
    assert "best.pt will be replaced" in reports[0]
    assert store.load_best() == Checkpoint(2, {"step": 2}, 9.0)


def test_best_is_updated_after_a_kill_between_the_two_writes(tmp_path: Path) -> None:
    store, _ = _store(tmp_path)
    store.save(1, {"step": 1}, 2.0)
    before = store.best_path.read_bytes()
    store.save(2, {"step": 2}, 1.0)
    store.best_path.unlink()  # not overwritten: it is a hard link to a checkpoint
    store.best_path.write_bytes(before)
    assert store.load_best() == Checkpoint(1, {"step": 1}, 2.0)
    store.update_best(2)
    assert store.load_best() == Checkpoint(2, {"step": 2}, 1.0)
    for step, score in ((3, 3.0), (4, None)):
        store.save(step, {"step": step}, score)
        store.update_best(step)
        assert store.load_best() == Checkpoint(2, {"step": 2}, 1.0)
    with pytest.raises(CheckpointError, match=r"step_0000009\.pt cannot be read"):
        store.update_best(9)


def test_a_step_saved_again_replaces_itself(tmp_path: Path) -> None:
    store, _ = _store(tmp_path)
    store.save(1, {"x": "first"}, 1.0)
    store.save(1, {"x": "second"}, 0.5)
    store.save(1, {"x": "third"}, 0.5)
    assert store.load_newest() == Checkpoint(1, {"x": "third"}, 0.5)
    assert store.load_best() == Checkpoint(1, {"x": "second"}, 0.5)


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
    assert calls[calls.index("fsync") :] == ["fsync", "replace", "unlink", "fsync folder", "unlink"]
    assert _steps(store) == [2]


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
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zeros":  # what a file system may leave after a power failure
        path.write_bytes(bytes(len(content)))
    elif how == "another archive":
        torch.save({"x": torch.zeros(1000)}, path)
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("flipped bit", "is corrupt: the checksum of"),
        ("truncated", "cannot be read"),
        ("one byte short", "cannot be read"),
        ("empty", "cannot be read"),
        ("zeros", "cannot be read"),
        ("another archive", "is not a checkpoint of a training run"),
        ("folder", "cannot be read"),
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
    assert f"{path} {reason}" in reports[0]


def test_when_all_are_damaged_the_run_does_not_start_again_silently(tmp_path: Path) -> None:
    store, reports = _store(tmp_path)
    for step in (1, 2):
        _damage(store.save(step, {"step": step}), "truncated")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoint\(s\) in .* can be read; move them away"):
        store.load_newest()
    assert len(reports) == 2


def test_a_damaged_checkpoint_does_not_displace_intact_ones(tmp_path: Path) -> None:
    store, reports = _store(tmp_path, keep_last=1)
    store.save(10, {"step": 10})
    store.keep_last = 2
    _damage(store.save(20, {"step": 20}), "flipped bit")
    store.keep_last = 1
    assert store.load_newest() == Checkpoint(10, {"step": 10})

    store.save(15, {"step": 15})  # the run resumed at step 10; by its number, 20 would still be the newest

    assert store.load_newest() == Checkpoint(15, {"step": 15})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000015.pt", "step_0000020.pt.corrupt"]
    assert "step_0000020.pt is later than step 15: renamed" in reports[1]


# ------------------------------------------------------------------------------------------------ failing writes


def test_a_write_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    store, reports = _store(tmp_path)
    store.save(1, {"x": torch.ones(1000)}, 1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The operating system refuses files above 100 kB: a real error in the middle of a real write.
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
def test_a_full_disk_is_reported_with_the_space_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store, _ = _store(tmp_path)
    store.save(1, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if moment == "write":
        monkeypatch.setattr(checkpoint_file.torch, "save", full)
    else:
        monkeypatch.setattr(os, moment, full)
    reason = r"No space left on device \(8,012 bytes needed, [\d,]+ free\); earlier checkpoints are intact"
    with pytest.raises(CheckpointError, match=reason):
        store.save(2, {"x": torch.zeros(2000), "y": [{"z": torch.zeros(3)}]})
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001.pt"]


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store, _ = _store(tmp_path / "file" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"could not be written to .*: Not a directory"):
        store.save(1, {})


def test_a_failure_after_the_write_says_that_the_checkpoint_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = _store(tmp_path, keep_last=1)
    store.save(1, {})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "_remove_old", refuse)
        with pytest.raises(CheckpointError, match=r"the checkpoint of step 2 was written to .*step_0000002\.pt, but"):
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

# Forks a writer ten times and kills it: every second time while it writes, else at a random moment of the next write.
_KILLED_WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from codec.training.checkpoint.store import CheckpointStore

torch.set_num_threads(1)
folder, draw = Path(sys.argv[1]), random.Random(0)
store = CheckpointStore(folder, keep_last=2, report=lambda text: print("REPORT", text))
partial_files = 0
for victim in range(10):
    found = store.load_newest()
    step = found.step if found else 0
    read_end, write_end = os.pipe()
    writer = os.fork()
    if not writer:
        while True:
            step += 1
            state = {"step": step, "weights": [torch.full((20_000,), float(step)) for _ in range(5)]}
            store.save(step, state, score=-step)
            os.write(write_end, b"%d\\n" % step)
    os.close(write_end)
    lines = os.fdopen(read_end)
    saved = [int(lines.readline())]
    started = time.monotonic()
    saved.append(int(lines.readline()))
    if victim % 2:
        while not any(folder.glob("step_*.partial")):
            pass
    else:
        time.sleep(draw.uniform(0, time.monotonic() - started))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    saved += map(int, lines.read().split())
    partial_files += any(folder.glob("step_*.partial"))
    for found in (store.load_newest(), store.load_best()):
        assert found, "a saved checkpoint is missing"
        assert found.step >= saved[-1], (found.step, saved)
        assert found.state["step"] == found.step
        assert all(bool((w == found.step).all()) and len(w) == 20_000 for w in found.state["weights"])
    assert len(store.paths()) <= 4, store.paths()
print(store.load_newest().step, partial_files)
"""


def test_a_kill_at_any_moment_leaves_an_intact_newest_checkpoint(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _KILLED_WRITERS, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[4],
    )
    assert result.returncode == 0, result.stderr
    assert "REPORT" not in result.stdout  # no file with a checkpoint's name was ever incomplete
    steps, partial_files = map(int, result.stdout.split())
    assert steps >= 20
    assert partial_files > 0  # some writers were killed in the middle of a write
