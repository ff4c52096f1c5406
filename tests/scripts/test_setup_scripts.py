"""The shell scripts, in a copy of the checkout whose Python only records its calls: no network, no installation."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from printed import only_line
from scripts.lowest_versions import lowest_versions
from slow_modules import SLOW

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
COMMANDS = [path.name for path in SCRIPTS if path.name != "setup.sh"]
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
TOOLS = ("bash", "env", "dirname", "basename", "cat", "cksum", "cp", "cut", "grep", "mkdir", "rm", "sed", "tr", "uname")
FLOCK = shutil.which("flock")  # not on macOS

# Records its folder, name and arguments, and the variables that select an instruction set. Makes the environment it is
# asked for. Fails at the call whose arguments contain FAIL_AT, and waits for a line of HELD at that with HOLD_AT.
STUB = """#!/usr/bin/env bash
isa="${ONEDNN_MAX_CPU_ISA:+[$ONEDNN_MAX_CPU_ISA] }${ATEN_CPU_CAPABILITY:+[$ATEN_CPU_CAPABILITY] }"
echo "$PWD $isa${0##*/} $*" >> "$CALLS"
case "$*" in *"${FAIL_AT:-nothing}"*) exit 3 ;; esac
case "$*" in *"${HOLD_AT:-nothing}"*) read -r < "$HELD" ;; esac
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts need, below a folder with a space in its name, and the only programs on their PATH."""
    root = tmp_path / "a copy"
    (root / ".ci").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".ci" / "run", root / ".ci" / "run")
    shutil.copy(ROOT / "pyproject.toml", root)
    (tmp_path / "elsewhere").mkdir()
    executable(tmp_path / "python", STUB)
    for tool in TOOLS:
        (tmp_path / "bin" / tool).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    executable(tmp_path / "bin" / "id", "#!/bin/sh\necho 0\n")
    executable(tmp_path / "bin" / "uname", "#!/bin/sh\necho Linux\n")
    executable(tmp_path / "bin" / "chromium", STUB)
    return root


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # writing through a link would change the system's own program
    path.write_text(text)
    path.chmod(0o755)


def digest(checkout: Path) -> str:
    """What setup.sh writes into its stamp for this pyproject.toml."""
    with open(checkout / "pyproject.toml", "rb") as file:
        printed = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, check=True).stdout
    return "-".join(printed.split())


def installed(checkout: Path) -> None:
    """The state after setup.sh and setup.sh test, with the second environment of the benchmark."""
    for name in ("python", "ruff", "mypy"):
        executable(checkout / ".venv" / "bin" / name, STUB)
    (checkout / ".venv" / ".torch").write_text("cpu\n")
    (checkout / ".venv" / ".ready").write_text(f"{digest(checkout)}\n{digest(checkout)} test\n")
    executable(checkout / ".peer" / "bin" / "python", STUB)
    (checkout / ".peer" / ".ready").touch()


def begin(checkout: Path, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a script from another folder."""
    inherited = {k: v for k, v in os.environ.items() if k not in {"ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "TORCH"}}
    default = {
        "CALLS": str(checkout.parent / "calls"),
        "PYTHON": str(checkout.parent / "python"),
        "PATH": str(checkout.parent / "bin"),
    }
    return subprocess.Popen(
        ["bash", str(checkout / script), *arguments],
        cwd=checkout.parent / "elsewhere",
        env={**inherited, **default, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(checkout: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script from another folder to its end."""
    with begin(checkout, script, *arguments, **environment) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def calls(checkout: Path) -> list[str]:
    """What was called since the last look, each as "name arguments"; all of it from the checkout's root."""
    noted = checkout.parent / "calls"
    lines = noted.read_text().splitlines() if noted.exists() else []
    noted.unlink(missing_ok=True)
    assert all(line.startswith(f"{checkout} ") for line in lines), lines
    return [line.removeprefix(f"{checkout} ") for line in lines]


def pip_calls(checkout: Path) -> list[str]:
    return [call.removeprefix("python -m pip ") for call in calls(checkout) if call.startswith("python -m pip ")]


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_parse_and_can_be_executed(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False).stderr == ""
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[0] == "#!/usr/bin/env bash"
    assert "\nset -euo pipefail\n" in script.read_text()


# --- setup.sh ---------------------------------------------------------------------------------------------------------


def test_setup_installs_once(checkout: Path) -> None:
    first = start(checkout, "scripts/setup.sh")
    assert first.returncode == 0, first.stderr
    version, venv, *_, package = calls(checkout)
    assert version.startswith("python -c import sys")
    assert venv == "python -m venv .venv"
    assert package == "python -m pip install --quiet --editable . --disable-pip-version-check"
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
    assert pip_calls(checkout)[-1].startswith("install --quiet --editable .[test]")
    assert (checkout / ".venv" / ".ready").read_text() == f"{digest(checkout)}\n{digest(checkout)} test\n"

    with open(checkout / "pyproject.toml", "a", encoding="utf-8") as file:
        file.write("# one more dependency\n")
    for extras in ([], ["test"]):
        start(checkout, "scripts/setup.sh", *extras)
        assert len(pip_calls(checkout)) == 1
    assert (checkout / ".venv" / ".ready").read_text() == f"{digest(checkout)}\n{digest(checkout)} test\n"


def test_what_the_tests_need_serves_everything_else(checkout: Path) -> None:
    start(checkout, "scripts/setup.sh", "test")
    calls(checkout)
    assert start(checkout, "scripts/setup.sh").returncode == 0
    assert calls(checkout) == []


@pytest.mark.parametrize(("step", "status"), [("-m venv", 1), ("torchaudio", 3), ("--editable", 3)])
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
        line = only_line(done.stderr)
        assert all(word in line for word in (str(old), "3.9.2", "3.11", "PYTHON="))
    done = start(checkout, "scripts/setup.sh", PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert "/nowhere/python" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_folder_that_cannot_be_written_is_one_line(checkout: Path) -> None:
    (checkout / ".venv").write_text("a file")
    done = start(checkout, "scripts/train.sh")
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert line.startswith("error: .venv is not up to date and cannot be written: ")
    assert line.endswith(f" as the owner of {checkout}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["foo"], ["foo", "evaluation", "tensorboard", "test"]),
        (["--foo"], ["--foo", "evaluation"]),
        (["evaluation,onx"], ["onx", "evaluation", "onnx"]),
        (["evaluation", "onnx"], ["evaluation,onnx"]),
    ],
)
def test_an_extra_that_does_not_exist_is_refused_before_anything_is_installed(
    arguments: list[str], words: list[str], checkout: Path
) -> None:
    done = start(checkout, "scripts/setup.sh", *arguments)
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert all(word in line for word in words)
    assert calls(checkout) == []
    assert not (checkout / ".venv").exists()


def test_setup_knows_every_extra(checkout: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = ",".join(project["optional-dependencies"])
    assert start(checkout, "scripts/setup.sh", extras).returncode == 0
    assert pip_calls(checkout)[-1].startswith(f"install --quiet --editable .[{extras}] ")
    assert all(extra in start(checkout, "scripts/setup.sh", "--help").stdout for extra in extras.split(","))


@pytest.mark.skipif(FLOCK is None, reason="no flock on this system")
@pytest.mark.parametrize("extras", [[], ["test"]], ids=["same", "more"])
def test_a_second_setup_waits_for_the_first(extras: list[str], checkout: Path) -> None:
    (checkout.parent / "bin" / "flock").symlink_to(str(FLOCK))
    os.mkfifo(held := checkout.parent / "held")
    with begin(checkout, "scripts/setup.sh", HOLD_AT="--editable", HELD=str(held)) as first:
        assert first.stderr is not None
        assert any("installing the other packages" in line for line in first.stderr)
        with begin(checkout, "scripts/setup.sh", *extras) as second:
            assert second.stderr is not None
            assert "waiting for another scripts/setup.sh" in second.stderr.readline()
            held.write_text("on\n")
            assert second.wait() == 0
        assert first.wait() == 0
    installations = [call.split()[3] for call in pip_calls(checkout) if "--editable" in call]
    assert installations == [".", *(f".[{extra}]" for extra in extras)]
    assert (checkout / ".venv" / ".ready").read_text().splitlines()[-1] == " ".join([digest(checkout), *extras])


def test_the_environment_of_another_checkout_is_used_but_not_changed(checkout: Path) -> None:
    """A git worktree whose .venv is a link."""
    worktree = checkout.parent / "worktree"
    shutil.copytree(checkout, worktree)
    installed(checkout)
    (worktree / ".venv").symlink_to(checkout / ".venv")
    before = (checkout / ".venv" / ".ready").read_text()
    assert start(worktree, "scripts/setup.sh").returncode == 0

    with open(worktree / "pyproject.toml", "a", encoding="utf-8") as file:
        file.write("# one more dependency\n")
    for environment in ({}, {"VENV": str(checkout / ".venv")}):
        done = start(worktree, "scripts/setup.sh", **environment)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert all(word in line for word in (f"belongs to {checkout}", "remove the link"))
    assert calls(worktree) == []
    assert (checkout / ".venv" / ".ready").read_text() == before


def test_a_link_to_a_folder_that_belongs_to_nothing_is_set_up(checkout: Path) -> None:
    """For example on a larger disk."""
    (checkout.parent / "disk").mkdir()
    (checkout / ".venv").symlink_to(checkout.parent / "disk")
    assert start(checkout, "scripts/setup.sh").returncode == 0
    assert (checkout.parent / "disk" / ".ready").read_text() == f"{digest(checkout)}\n"


TORCH_REQUIREMENTS = "torch>=2.6,<2.15 torchaudio>=2.6"


def test_torch_comes_from_the_cpu_index_where_there_is_no_nvidia_driver(checkout: Path) -> None:
    """torch and torchaudio in one call from one index, so that both are of the same build."""
    done = start(checkout, "scripts/setup.sh")
    install = pip_calls(checkout)[0]
    assert install == f"install --index-url {CPU_WHEELS} {TORCH_REQUIREMENTS} --disable-pip-version-check"
    assert "0.2 GB" in done.stderr  # the size is printed before the download, and pip shows its progress

    executable(checkout.parent / "bin" / "nvidia-smi", STUB)
    shutil.rmtree(checkout / ".venv")
    done = start(checkout, "scripts/setup.sh")
    assert pip_calls(checkout)[0].startswith(f"install {TORCH_REQUIREMENTS} ")
    assert "5.6 GB" in done.stderr
    assert "TORCH=cpu" in done.stderr


def test_without_the_cpu_index_torch_comes_from_the_usual_one(checkout: Path) -> None:
    done = start(checkout, "scripts/setup.sh", FAIL_AT="urlopen")
    assert done.returncode == 0
    assert pip_calls(checkout)[0].startswith(f"install {TORCH_REQUIREMENTS} ")
    assert f"{CPU_WHEELS} cannot be reached" in done.stderr
    assert "5.6 GB" in done.stderr


def test_elsewhere_than_on_linux_the_usual_index_has_the_cpu_build(checkout: Path) -> None:
    executable(checkout.parent / "bin" / "uname", "#!/bin/sh\necho Darwin\n")
    done = start(checkout, "scripts/setup.sh")
    assert pip_calls(checkout)[0].startswith(f"install {TORCH_REQUIREMENTS} ")
    assert "CUDA" not in done.stderr


def test_torch_chooses_the_build_and_a_new_choice_replaces_the_old_one(checkout: Path) -> None:
    start(checkout, "scripts/setup.sh", TORCH="cuda")
    assert CPU_WHEELS not in "".join(pip_calls(checkout))
    for choice in ("cuda", ""):  # no change
        start(checkout, "scripts/setup.sh", TORCH=choice)
        assert calls(checkout) == []
    start(checkout, "scripts/setup.sh", TORCH="cpu")
    uninstall, install, _ = pip_calls(checkout)
    assert uninstall.startswith("uninstall --quiet --yes torch torchaudio ")
    assert install.startswith(f"install --index-url {CPU_WHEELS} {TORCH_REQUIREMENTS} ")

    refused = start(checkout, "scripts/setup.sh", TORCH="rocm")
    assert (refused.returncode, refused.stderr) == (1, "error: TORCH is 'rocm'; expected cpu or cuda\n")
    assert calls(checkout) == []


# --- the other scripts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", COMMANDS)
def test_commands_work_from_any_folder_and_pass_on_arguments_and_status(script: str, checkout: Path) -> None:
    installed(checkout)
    done = start(checkout, f"scripts/{script}", "--seed=1", "name=two words")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(checkout)[-1].endswith("--seed=1 name=two words")
    assert start(checkout, f"scripts/{script}", "--seed=1", FAIL_AT="seed=1").returncode == 3


def test_train_runs_the_training_module(checkout: Path) -> None:
    installed(checkout)
    start(checkout, "scripts/train.sh", "seed=1")
    assert calls(checkout) == ["python -m scripts.train seed=1"]


@pytest.mark.parametrize("script", ["train", "ablate"])
def test_the_command_knows_how_the_user_started_it(script: str, checkout: Path) -> None:
    installed(checkout)
    executable(checkout / ".venv" / "bin" / "python", '#!/bin/sh\necho "$STARTED_AS"\n')
    (checkout / ".venv" / ".ready").write_text(f"{digest(checkout)} test\n")
    assert start(checkout, f"scripts/{script}.sh").stdout == f"bash {checkout}/scripts/{script}.sh\n"


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS])
def test_help_installs_nothing(script: str, checkout: Path) -> None:
    text = ROOT / "scripts" / "help" / script.replace(".sh", ".txt")
    for arguments in (["--help"], ["seed=1", "-h"]):
        done = start(checkout, f"scripts/{script}", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"bash scripts/{script}" in done.stdout
        if text.exists():
            assert done.stdout == text.read_text(encoding="utf-8")
        else:  # the comment at the top
            comment = "\n".join(f"# {line}".rstrip() for line in done.stdout.splitlines())
            assert (ROOT / "scripts" / script).read_text().startswith(f"#!/usr/bin/env bash\n{comment}\nset ")
    assert calls(checkout) == []


def test_ablate_installs_the_launcher_it_is_given(checkout: Path) -> None:
    for launcher, extras in (("basic", ""), ("joblib", ",joblib"), ("submitit_slurm", ",submitit")):
        start(checkout, "scripts/ablate.sh", f"hydra/launcher={launcher}", "seeds=[0]")
        *_, pip, python = calls(checkout)
        assert f" --editable .[evaluation{extras}] " in pip
        assert python == f"python -m scripts.ablate hydra/launcher={launcher} seeds=[0]"


LINT = ["ruff check .", "ruff format --check .", "mypy "]
PYTEST = "python -m pytest -n 2 --dist worksteal"


def test_the_tests_are_lint_types_and_pytest_and_the_first_failure_ends_them(checkout: Path) -> None:
    installed(checkout)
    assert start(checkout, "scripts/test.sh").returncode == 0
    assert calls(checkout) == [*LINT, PYTEST]
    assert start(checkout, "scripts/test.sh", FAIL_AT="--check").returncode == 3
    assert calls(checkout) == LINT[:2]
    start(checkout, "scripts/test.sh", "tests/data", "-k", "manifest")
    assert calls(checkout) == [*LINT, f"{PYTEST} tests/data -k manifest"]


@pytest.mark.parametrize("fast", [["--fast"], ["-m", "fast"]], ids=" ".join)
def test_the_fast_tests(fast: list[str], checkout: Path) -> None:
    installed(checkout)
    start(checkout, "scripts/test.sh", *fast, "-x")
    assert calls(checkout) == [*LINT, f"{PYTEST} -m fast -x"]


def test_slow_tests_exist() -> None:
    assert [name for name in SLOW if not (ROOT / "tests" / name).exists()] == []


def test_modes_for_older_cpus_set_what_torch_and_onednn_may_use(checkout: Path) -> None:
    installed(checkout)
    start(checkout, "scripts/test.sh", "--isa", "avx2", "--fast")
    assert calls(checkout) == [f"[AVX2] [avx2] {PYTEST} -m fast"]
    start(checkout, "scripts/test.sh", "--isa", "default", "-x")
    assert calls(checkout) == [f"[default] {PYTEST} -x"]
    refused = start(checkout, "scripts/test.sh", "--isa", "sse9")
    assert (refused.returncode, refused.stderr) == (1, "error: --isa is 'sse9'; expected avx2 or default\n")


def test_ci_runs_all_tests_and_the_fast_ones_for_an_older_cpu(checkout: Path) -> None:
    installed(checkout)
    assert start(checkout, ".ci/run").returncode == 0
    assert calls(checkout) == [*LINT, PYTEST, f"[AVX2] [avx2] {PYTEST} -m fast --cov --cov-report=term"]
    assert start(checkout, ".ci/run", FAIL_AT="--check").returncode == 3
    assert calls(checkout) == LINT[:2]


@pytest.mark.parametrize(("user", "fails", "tried"), [("0", "nothing", 2), ("0", "update", 1), ("1000", "nothing", 0)])
def test_without_chromium_root_installs_it_and_the_tests_run_anyway(
    user: str, fails: str, tried: int, checkout: Path
) -> None:
    installed(checkout)
    programs = checkout.parent / "bin"
    (programs / "chromium").unlink()
    executable(programs / "apt-get", STUB)
    executable(programs / "id", f"#!/bin/sh\necho {user}\n")
    done = start(checkout, "scripts/test.sh", FAIL_AT=fails)
    assert (done.returncode, done.stderr) == (0, "")
    assert "browser tests are skipped" in done.stdout
    noted = calls(checkout)
    assert noted[-1].startswith(PYTEST)
    assert [call.split()[1] for call in noted if call.startswith("apt-get")] == ["update", "install"][:tried]


# --- the lowest versions ----------------------------------------------------------------------------------------------


def test_the_lowest_versions_get_an_environment_of_their_own(checkout: Path) -> None:
    """The constraints are made before the environment, and pip reads them from PIP_CONSTRAINT."""
    installed(checkout)
    recorded = STUB.replace('echo "$PWD ', 'echo "$PWD (${PIP_CONSTRAINT##*/}) ', 1)
    executable(checkout.parent / "python", recorded + '[ "$2" != scripts.lowest_versions ] || echo "torch==2.6"\n')
    done = start(checkout, "scripts/test.sh", "--lowest", "-x")
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv-lowest" / "constraints.txt").read_text() == "torch==2.6\n"
    first, *_, package, tests = calls(checkout)
    assert first == "() python -m scripts.lowest_versions"
    assert package.startswith("(constraints.txt) python -m pip install --quiet --editable .[test] ")
    assert tests == f"() {PYTEST} -W default -x"
    assert (checkout / ".venv" / ".ready").read_text().splitlines() == [digest(checkout), f"{digest(checkout)} test"]


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    found = lowest_versions((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"torch": "2.6", "torchaudio": "2.6", "hydra-core": "1.3.2", "pytest-xdist": "3.6"}.items() <= found.items()
    assert "neural-codec-trainer" not in found
    assert len(found) >= 30


@pytest.mark.parametrize(
    ("dependencies", "message"),
    [
        ('["einops"]', "einops needs exactly one lower bound"),
        ('["einops<1"]', "einops needs exactly one lower bound"),
        ('["einops>=0.8", "einops>=0.7"]', "einops needs exactly one lower bound"),
        ('["einops @ file"]', "expected a dependency like"),
    ],
)
def test_a_dependency_without_one_lower_bound_is_an_error(dependencies: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lowest_versions(f'[project]\nname = "mine"\ndependencies = {dependencies}\n')


def test_the_lowest_versions_of_a_small_project() -> None:
    pyproject = """
        [project]
        name = "mine"
        dependencies = ["torch>=2.6,<2.15", "hydra-core >= 1.3.2"]
        [project.optional-dependencies]
        more = ["mine[other]", "onnx>=1.17; python_version < '3.14'"]
    """
    assert lowest_versions(pyproject) == {"torch": "2.6", "hydra-core": "1.3.2", "onnx": "1.17"}


# --- CI, git and benchmarks -------------------------------------------------------------------------------------------


def test_the_public_workflow_runs_the_same_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    lines = [step["run"] for step in steps if "run" in step]
    assert all(line.startswith("bash scripts/test.sh") for line in lines)
    assert {"", "--lowest", "-m long"} <= {line.removeprefix("bash scripts/test.sh").strip() for line in lines}
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"][0] == oldest.removeprefix(">=")


def test_gitignore_hides_generated_files_only(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True, capture_output=True)
    code = [path.relative_to(ROOT).as_posix() for path in (ROOT / "data").rglob("*") if "__pycache__" not in path.parts]
    assert "data/clips/train.jsonl" in code
    assert any(name.endswith(".flac") for name in code)
    made = [
        ".coverage",
        ".venv-lowest/bin/python",
        "datasets/x.wav",
        "runs/starter/last.pt",
        ".venv/bin/python",
        ".peer/x",
        "data/__pycache__/x.pyc",
    ]
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
    modules = [call.split()[2].removeprefix("scripts.bench.") for call in asked]
    single = ["coding", "streaming", "startup", "data", "shards", "parts", "growth", "precision"]
    assert modules == ["step", "step", "balancers", "balancers", *single]
    assert len({call.split()[4] for call in asked}) == 12
    refused = start(checkout, "scripts/bench.sh", "codng")
    assert (refused.returncode, calls(checkout)) == (1, [])
    assert "codng" in refused.stderr
