"""The shell scripts, run in a copy of the checkout whose Python only notes how it was called, so without network."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
COMMANDS = [path.name for path in SCRIPTS if path.name != "setup.sh"]

# Notes its folder and arguments, makes the .venv it is asked for, and fails at the call that FAIL_AT names.
STUB = """#!/usr/bin/env bash
echo "$PWD $(basename "$0") $*" >> "$CALLS"
case "$*" in *"${FAIL_AT:-nothing}"*) exit 3 ;; esac
if [ "$*" = "-m venv .venv" ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; fi
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts need, below a folder with a space in its name."""
    root = tmp_path / "a copy"
    (root / ".ci").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".ci" / "run", root / ".ci" / "run")
    shutil.copy(ROOT / "pyproject.toml", root)
    (tmp_path / "elsewhere").mkdir()
    executable(tmp_path / "python", STUB)
    return root


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def digest(checkout: Path) -> str:
    return hashlib.sha256((checkout / "pyproject.toml").read_bytes()).hexdigest()


def installed(checkout: Path) -> None:
    """As setup.sh leaves things, with and without the tests' packages; and the same for the benchmark's peer."""
    for name in ("python", "ruff", "mypy"):
        executable(checkout / ".venv" / "bin" / name, STUB)
    (checkout / ".venv" / ".ready").write_text(f"{digest(checkout)}\n{digest(checkout)} test\n")
    executable(checkout / ".peer" / "bin" / "python", STUB)
    (checkout / ".peer" / ".ready").touch()


def start(checkout: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script from another folder."""
    executable(checkout.parent / "bin" / "chromium", STUB)  # or test.sh would install it
    default = {
        "CALLS": str(checkout.parent / "calls"),
        "PYTHON": str(checkout.parent / "python"),
        "PATH": f"{checkout.parent / 'bin'}:{os.environ['PATH']}",
    }
    return subprocess.run(
        ["bash", str(checkout / script), *arguments],
        cwd=checkout.parent / "elsewhere",
        env={**os.environ, **default, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def calls(checkout: Path) -> list[str]:
    """What was called since the last look, each as "name arguments"; all of it from the checkout's root."""
    noted = checkout.parent / "calls"
    lines = noted.read_text().splitlines() if noted.exists() else []
    noted.unlink(missing_ok=True)
    assert all(line.startswith(f"{checkout} ") for line in lines), lines
    return [line.removeprefix(f"{checkout} ") for line in lines]


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_parse_and_can_be_executed(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False).stderr == ""
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[0] == "#!/usr/bin/env bash"
    assert "\nset -euo pipefail\n" in script.read_text()


def test_setup_installs_once(checkout: Path) -> None:
    first = start(checkout, "scripts/setup.sh")
    assert first.returncode == 0, first.stderr
    version, venv, pip = calls(checkout)
    assert version.startswith("python -c import sys")
    assert venv == "python -m venv .venv"
    assert pip == "python -m pip install --quiet --disable-pip-version-check --editable ."
    assert (checkout / ".venv" / ".ready").read_text() == f"{digest(checkout)}\n"

    second = start(checkout, "scripts/setup.sh")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert calls(checkout) == []


def test_setup_does_nothing_when_the_stamp_matches(checkout: Path) -> None:
    installed(checkout)
    before = (checkout / ".venv" / ".ready").read_text()
    for extras in ([], ["test"]):
        done = start(checkout, "scripts/setup.sh", *extras, PYTHON="/nowhere/python")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert calls(checkout) == []
    assert (checkout / ".venv" / ".ready").read_text() == before


def test_setup_adds_extras_and_notices_a_changed_pyproject(checkout: Path) -> None:
    start(checkout, "scripts/setup.sh")
    start(checkout, "scripts/setup.sh", "test")
    assert calls(checkout)[-1].endswith("--editable .[test]")
    assert (checkout / ".venv" / ".ready").read_text() == f"{digest(checkout)}\n{digest(checkout)} test\n"

    with open(checkout / "pyproject.toml", "a", encoding="utf-8") as file:
        file.write("# one more dependency\n")
    for extras in ([], ["test"]):
        start(checkout, "scripts/setup.sh", *extras)
        assert any(" -m pip install " in call for call in calls(checkout))
    assert (checkout / ".venv" / ".ready").read_text() == f"{digest(checkout)}\n{digest(checkout)} test\n"


def test_what_the_tests_need_serves_everything_else(checkout: Path) -> None:
    start(checkout, "scripts/setup.sh", "test")
    calls(checkout)
    assert start(checkout, "scripts/setup.sh").returncode == 0
    assert calls(checkout) == []


@pytest.mark.parametrize(("step", "status"), [("-m venv", 1), ("-m pip", 3)])
def test_a_setup_that_fails_is_tried_again(step: str, status: int, checkout: Path) -> None:
    assert start(checkout, "scripts/setup.sh", FAIL_AT=step).returncode == status
    assert not (checkout / ".venv" / ".ready").exists()
    assert start(checkout, "scripts/setup.sh").returncode == 0
    assert (checkout / ".venv" / ".ready").exists()


def test_a_python_that_is_too_old_is_refused_in_one_line(checkout: Path) -> None:
    old = checkout.parent / "python3.9"
    executable(old, "#!/bin/sh\necho 3.9.2; exit 1\n")
    for script in ("scripts/setup.sh", "scripts/train.sh"):
        done = start(checkout, script, PYTHON=str(old))
        assert done.returncode == 1
        assert done.stderr == f"error: Python 3.11 or later is needed, {old} is 3.9.2; name another with PYTHON=\n"
    done = start(checkout, "scripts/setup.sh", PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python 3.11 or later is needed, /nowhere/python is not there")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("script", COMMANDS)
def test_commands_work_from_any_folder_and_hand_on_arguments_and_status(script: str, checkout: Path) -> None:
    installed(checkout)
    done = start(checkout, f"scripts/{script}", "seed=1", "name=two words")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(checkout)[-1].endswith("seed=1 name=two words")
    assert start(checkout, f"scripts/{script}", "seed=1", FAIL_AT="seed=1").returncode == 3


def test_train_runs_the_training_module(checkout: Path) -> None:
    installed(checkout)
    start(checkout, "scripts/train.sh", "seed=1")
    assert calls(checkout) == ["python -m scripts.train seed=1"]


def test_ablate_sees_to_the_launcher_it_is_given(checkout: Path) -> None:
    for launcher, extras in (("basic", ""), ("joblib", ",joblib"), ("submitit_slurm", ",submitit")):
        start(checkout, "scripts/ablate.sh", f"hydra/launcher={launcher}", "seeds=[0]")
        pip, python = calls(checkout)[-2:]
        assert pip.endswith(f"--editable .[evaluation{extras}]")
        assert python == f"python -m scripts.ablate hydra/launcher={launcher} seeds=[0]"


def test_ci_runs_the_tests_as_the_script_does(checkout: Path) -> None:
    """Lint, format, types, tests; the first that fails ends it."""
    installed(checkout)
    assert start(checkout, "scripts/test.sh").returncode == 0
    by_hand = calls(checkout)
    assert by_hand == ["ruff check .", "ruff format --check .", "mypy ", "python -m pytest -n 2 --dist worksteal"]
    assert start(checkout, ".ci/run").returncode == 0
    assert calls(checkout) == by_hand
    assert start(checkout, ".ci/run", FAIL_AT="--check").returncode == 3
    assert calls(checkout) == by_hand[:2]


@pytest.mark.parametrize(("user", "fails", "tried"), [("0", "nothing", 2), ("0", "update", 1), ("1000", "nothing", 0)])
def test_without_chromium_root_installs_it_and_the_tests_run_anyway(
    user: str, fails: str, tried: int, checkout: Path
) -> None:
    installed(checkout)
    only = checkout.parent / "only"
    for tool in ("bash", "env", "dirname", "basename", "sha256sum", "cut", "grep"):
        only.mkdir(exist_ok=True)
        (only / tool).symlink_to(str(shutil.which(tool)))
    executable(only / "apt-get", STUB)
    executable(only / "id", f"#!/bin/sh\necho {user}\n")
    done = start(checkout, "scripts/test.sh", PATH=str(only), FAIL_AT=fails)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the browser test of the ablation page is left out" in done.stdout
    noted = calls(checkout)
    assert noted[-1] == "python -m pytest -n 2 --dist worksteal"
    assert [call.split()[1] for call in noted if call.startswith("apt-get")] == ["update", "install"][:tried]


def test_gitignore_hides_what_is_made_and_not_what_is_written(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True, capture_output=True)
    code = [path.relative_to(ROOT).as_posix() for path in (ROOT / "data").rglob("*") if "__pycache__" not in path.parts]
    assert "data/clips/train.jsonl" in code
    assert any(name.endswith(".flac") for name in code)
    made = ["datasets/x.wav", "runs/starter/last.pt", ".venv/bin/python", ".peer/x", "data/__pycache__/x.pyc"]
    kept = [*code, "codec/training/trainer.py", "configs/data/starter.yaml", "scripts/train.sh", ".ci/run"]
    listed = subprocess.run(
        [*git, "check-ignore", "--stdin"], input="\n".join([*made, *kept]), capture_output=True, text=True, check=True
    )
    assert sorted(listed.stdout.splitlines()) == sorted(made)


def test_bench_chooses_what_it_measures(checkout: Path) -> None:
    installed(checkout)
    start(checkout, "scripts/bench.sh", "streaming", "--seconds", "1")
    assert calls(checkout) == ["python -m scripts.bench.streaming --json runs/bench/streaming.json --seconds 1"]
    start(checkout, "scripts/bench.sh", "balancers")
    balancers = [
        f"python -m scripts.bench.balancers --json runs/bench/balancers-{p}.json --precision {p}"
        for p in ("float32", "auto")
    ]
    assert calls(checkout) == balancers
    start(checkout, "scripts/bench.sh", "growth", "--rounds", "2")
    assert calls(checkout) == [
        "python -m scripts.bench.growth --json runs/bench/growth.json --plot runs/bench/growth.svg --rounds 2"
    ]
    start(checkout, "scripts/bench.sh", "all")
    asked = calls(checkout)
    modules = [call.split()[2].removeprefix("scripts.") for call in asked]
    assert modules == [
        *("bench", "bench", "bench_balancers", "bench_balancers"),
        *(f"bench_{name}" for name in ("coding", "streaming", "startup", "data", "growth", "precision")),
    ]
    assert len({call.split()[4] for call in asked if "--json" in call}) == 10
