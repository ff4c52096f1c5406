"""A run's folder: its name, one run per folder, moved and extended runs."""

import json
import os
from copy import deepcopy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bad_input import ROOT, assert_trained, folder_of, from_folder, line_of, train
from codec.folder_lock import locked
from scripts.errors import describe_error
from scripts.run_name import name_run
from scripts.train import run

pytestmark = pytest.mark.usefixtures("no_report")


def test_an_experiment_without_a_name(tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", ["experiment=none", "data=clips", f"runs_folder={tmp_path}"])
    with pytest.raises(ValueError, match=r"the run has no name: set name="):
        run(cfg)
    assert not list(tmp_path.iterdir())


def test_a_name_may_be_a_number(tmp_path: Path) -> None:
    train(tmp_path, "data=clips", "name=7")
    assert_trained(tmp_path / "7")


def test_the_folder_of_a_run_with_other_settings(tmp_path: Path) -> None:
    folder = train(tmp_path, "data=clips", "losses.weights.mel=1")
    assert_trained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a run with other settings") as caught:
        train(
            tmp_path,
            "data=clips",
            "seed=1",
            "losses.weights.mel=3",
            "trainer.gradient_clip_norm=1",
            "data.batch_size=3",
        )
    assert describe_error(caught.value) == (
        f"{folder} holds a run with other settings (seed was 0, is 1; losses.weights.mel was 1, is 3; "
        "balancer.weights.mel was 1, is 3; ...): choose another name=, or move that folder away"
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_can_be_moved_and_extended(tmp_path: Path) -> None:
    train(tmp_path, "data=clips", "trainer.max_steps=2")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bad").rename(tmp_path / "elsewhere" / "moved")
    train(tmp_path / "elsewhere", "data=clips", "name=moved", "data.num_workers=1")
    assert_trained(tmp_path / "elsewhere" / "moved")


def test_the_runs_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    line = line_of(lambda: train(tmp_path / "runs", "data=clips"))
    assert f"{tmp_path / 'runs'} is not a folder" in line
    assert "runs_folder=" in line


def test_the_name_is_that_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("")
    line = line_of(lambda: train(tmp_path, "data=clips", "name=index.html"))
    assert f"{tmp_path / 'index.html'} is not a folder; choose another name=" in line


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # as on a read-only disk
    line = line_of(lambda: train(tmp_path, *from_folder(tmp_path / "nowhere")))
    assert f"{tmp_path} is read-only or belongs to another user; choose another runs_folder=" in line


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    folder = train(tmp_path, "data=clips", "trainer.max_steps=2")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with locked(folder):
        line = line_of(lambda: train(tmp_path, "data=clips"))
    assert line == f"another process trains in {folder}: wait until it ends, or choose another name="
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert_trained(train(tmp_path, "data=clips"))


def test_a_start_that_fails_removes_only_the_folders_it_made(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for runs in (tmp_path / "new" / "runs", tmp_path / "kept"):
        line_of(lambda runs=runs: train(runs, *from_folder(tmp_path / "nowhere")))  # type: ignore[misc]
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_finished_run_that_is_started_again_keeps_its_facts(tmp_path: Path) -> None:
    folder = train(tmp_path, "data=clips", "trainer.max_steps=1")
    first = json.loads((folder / "status.json").read_text())
    train(tmp_path, "data=clips", "trainer.max_steps=1")
    again = json.loads((folder / "status.json").read_text())
    assert (again["state"], again["step"], again["total_steps"]) == ("finished", 1, 1)
    assert {key: again[key] for key in ("device", "corpus", "parameters", "seconds")} == {
        key: first[key] for key in ("device", "corpus", "parameters", "seconds")
    }


@pytest.mark.parametrize(
    ("overrides", "swept", "name"),
    [
        ([], (), "starter"),
        (["trainer.max_steps=9", "trainer.device=cpu", "logger.sinks=[]", "runs_folder=x"], (), "starter"),
        (["seed=1", "balancer=pcgrad"], (), "starter_balancer=pcgrad_seed=1"),
        (["balancer/scale=gls", "~losses.weights.l1"], (), "starter_balancer.scale=gls_~losses.weights.l1="),
        (["data=folder", "data.root='/x/my hörspiel (1)'"], (), "starter_data=folder_data.root=my-hörspiel-1"),
        (["losses.weights={l1: 1, magnitude: 2}"], (), "starter_losses.weights=l1-1,-magnitude-2"),
        (["name=mine", "seed=1"], (), "mine"),
        (["name=a", "seed=1", "trainer.max_steps=5"], ("seed", "trainer.max_steps"), "a_seed=1_trainer.max_steps=5"),
    ],
)  # fmt: skip
def test_a_run_is_named_after_its_changes(overrides: list[str], swept: tuple[str, ...], name: str) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", overrides)
    other = deepcopy(cfg)
    name_run(cfg, overrides, swept)
    name_run(other, overrides[::-1], swept)
    assert cfg.name == other.name == name  # the order of the command line does not matter


def test_changes_that_make_no_short_name_need_one() -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train")
    with pytest.raises(ValueError, match=r"the 1 changes of this run make no short name: set name="):
        name_run(cfg, [f"data.root={'ö' * 80}"], ())


def test_names_that_are_no_folder_are_refused(tmp_path: Path) -> None:
    for name in ("../x", "a/b", ".", ".."):
        line = line_of(lambda name=name: train(tmp_path, "data=clips", f"name={name}"))  # type: ignore[misc]
        assert line == f"name must be the name of a folder in {tmp_path}, got {name!r}"


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """Audio and run; the settings are saved, and the run resumes."""
    audio = folder_of(tmp_path / "plain").rename(tmp_path / os.fsdecode(b"caf\xe9 (1)"))
    for steps in (2, 3):
        folder = train(tmp_path, *from_folder(audio), f"trainer.max_steps={steps}", "checkpoints.keep_last=1")
    assert_trained(folder)
