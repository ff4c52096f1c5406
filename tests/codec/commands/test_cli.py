"""The program `codec`: as a process, and its exit status for wrong usage."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codec.bitstream.entropy.model_file import ENTROPY_NAME
from codec.bitstream.header import CODINGS
from codec.cli import main
from codec.model_file import MODEL_NAME, fingerprint, load_model
from codec.tokens.shards import FORMATS
from coding_inputs import ROOT, noise, save_tiny, write_wav
from printed import only_line


@pytest.mark.slow
def test_the_program_as_a_process(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_tiny("causal", here)
    write_wav("in.wav", noise(4000))
    line = [sys.executable, "-m", "codec", "encode", "in.wav", "-f", "-o", "out.ecdc", "--model", run]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"out.ecdc: 0.17 s, ")
    assert main(["info", "out.ecdc"]) == 0
    assert fingerprint(load_model(f"{run}/model.safetensors")) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "codec: the following arguments are required: COMMAND; see codec --help"),
        (["encode"], "codec encode: the following arguments are required: IN; see codec encode --help"),
        (["encdoe", "a.wav"], "codec: there is no command encdoe (did you mean encode?); see codec --help"),
        (["play"], "codec: there is no command play, expected one of encode, decode, info, "),
        (["encode", "a.wav", "--bitrte", "3"], "codec encode: there is no option --bitrte (did you mean --bitrate?); "),
        (["decode", "a.ecdc", "--strat=3"], "codec decode: there is no option --strat=3 (did you mean --start?); "),
        (["encode", "a.wav", "--coding", "fixd"], "there is no value fixd (did you mean fixed?)"),
        (["encode", "a.wav", "-b", "many"], "argument -b/--bitrate: invalid float value: 'many'"),
        (["completion", "bash", "zsh"], "codec completion: unexpected argument zsh; "),
    ],
)
def test_wrong_usage_is_one_line_with_the_nearest_word(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_whose_name_begins_with_a_dash(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_tiny("causal", here)
    write_wav("-x.wav", noise(100))
    with pytest.raises(SystemExit, match="2"):
        main(["encode", "-x.wav", "--model", run])
    assert "-x.wav is taken for an option: write ./-x.wav; " in only_line(capsys.readouterr().err)
    assert main(["encode", "--model", run, "--", "-x.wav"]) == 0
    assert main(["encode", "--model", run, "./-x.wav", "-f"]) == 0


def test_options_may_stand_between_inputs(here: Path) -> None:
    run = save_tiny("causal", here)
    for name in "abc":
        write_wav(f"{name}.wav", noise(100))
    assert main(["encode", "a.wav", "--model", run, "b.wav", "-o", "out", "c.wav", "-q"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.ecdc", "b.ecdc", "c.ecdc"]


def test_help_has_groups_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("encode", "decode"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        text = capsys.readouterr().out
        parts = ["positional arguments:", "common options:", "streaming:", "advanced options:", "examples:"]
        assert sorted(parts, key=text.index) == parts


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("encode", [",".join(CODINGS), ENTROPY_NAME]),
        ("tokenize", [",".join(FORMATS)]),
        ("train-entropy", [ENTROPY_NAME, "Default: 20"]),
        ("info", [MODEL_NAME]),
        ("import", [MODEL_NAME]),
    ],
)
def test_help_repeats_what_the_program_defines(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The options do not import these, because help must not wait for torch."""
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in words)


IMPORT_THAT_HIDES_AN_INTERRUPT = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:
    raise ImportError("hidden") from None
"""


def test_an_interrupt_while_torch_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(IMPORT_THAT_HIDES_AN_INTERRUPT)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-m", "codec", "info", "in.ecdc"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b"", b"interrupted\n")
    assert process.returncode == 130


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"codec \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_options_and_values(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("encode", "train-entropy", "--bitrate", "--block-frames", "transformer"):
        assert word in script


def test_completion_in_bash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    request = """
COMP_WORDS=(codec encode --bit); COMP_CWORD=2; _shtab_codec; echo "${COMPREPLY[@]}"
COMP_WORDS=(codec enc); COMP_CWORD=1; _shtab_codec; echo "${COMPREPLY[@]}"
"""
    script = capsys.readouterr().out + request
    done = subprocess.run(["bash", "--norc"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--bitrate", "encode"]


# How an output ends, exit status, and message.
REDIRECTIONS = [
    ("> /dev/full", 1, "codec: (stdout: )?No space left on device\n"),
    ("| true", 141, ""),
    (">&-", 0, ""),
    ("<&- >&- 2>&-", 0, ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "redirection", "status", "message"),
    [(words, *case) for words in ("completion bash", "encode --help") for case in REDIRECTIONS],
)
def test_a_text_that_cannot_be_written_is_one_line_at_most(
    arguments: str, redirection: str, status: int, message: str
) -> None:
    line = f"{{ sleep 0.1; {sys.executable} -m codec {arguments}; exit $?; }} {redirection}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status
    assert done.stdout == ""
    assert re.fullmatch(message, done.stderr)


@pytest.mark.parametrize(("status", "message"), [(1, "codec: stdout: No space left on device\n"), (141, "")])
def test_a_report_that_cannot_be_written_is_one_line_at_most(
    status: int, message: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as the command imports torch: to a full disk, and to a pipe whose reader has ended."""
    save_tiny("causal", here)
    if status == 1:
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    with os.fdopen(output, "w") as stream:  # closed as at the end of a process: what is left must not fail again
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["info", "causal"]) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("redirection", ["", "> /dev/full"])
@pytest.mark.parametrize("arguments", ["--help", "--version", "encode --help", "completion bash"])
def test_help_and_completion_do_not_import_torch(arguments: str, redirection: str) -> None:
    line = f"{sys.executable} -X importtime -m codec {arguments} {redirection}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, shell=True, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == (1 if redirection else 0)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "codec.cli" in imported
    assert "torch" not in imported
    errors = re.findall(r"^codec: (?:stdout: )?No space left on device$", done.stderr, re.MULTILINE)
    assert len(errors) == (1 if redirection else 0)
