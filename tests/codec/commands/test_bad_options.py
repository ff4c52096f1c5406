"""Values of options that make no sense give one line that names the option, and nothing is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coding_inputs import noise, run_codec, save_tiny, write_wav

NUMBERS = ("nan", "inf", "-inf", "-1", "1000000")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny("causal", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def made(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "audio").mkdir()
    write_wav(folder / "audio/a.wav", noise(2000))
    assert run_codec("encode", folder / "audio/a.wav", "-o", folder / "a.ecdc", "--model", model, "-q") == 0
    tokens = ("tokenize", folder / "audio", folder / "tokens")
    assert run_codec(*tokens, "--jobs", "1", "--model", model, "-q") == 0
    return folder


@pytest.fixture
def files(here: Path, made: Path) -> Path:
    """A folder of audio, an encoded file and a folder of tokens, in the working folder."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here


@pytest.mark.parametrize(
    ("command", "option", "values", "line"),
    [
        ("detokenize tokens a.ecdc", "--jobs", ("1",), "OUT must be a folder, a.ecdc is a file"),
        ("encode audio/a.wav -o out.ecdc", "--bitrate", NUMBERS, "this model offers bitrates of "),
        ("encode audio/a.wav -o out.ecdc", "--block-frames", ("0", "1000000"), "a block must have 1 to 4096 frames"),
        ("encode audio/a.wav -o out.ecdc", "--beams", ("0", "65"), "--beams must be 1 to 64"),
        ("encode audio/a.wav -o out.ecdc", "--jobs", ("0", "1000000"), "--jobs must be 1 to 1024"),
        ("encode audio/a.wav -o out.ecdc", "--device", ("meta", "gpu", "cuda:99"), "the device "),
        ("encode audio/a.wav -o out.ecdc", "--model", ("", "audio", "a.ecdc"), ""),
        (
            "encode audio/a.wav -o out.ecdc",
            "--entropy",
            ("nowhere", "audio"),
            "--entropy must be a file that codec",
        ),
        (
            "encode audio/a.wav --format encodec -o out.ecdc",
            "--coding",
            ("fixed",),
            "--coding cannot be used with",
        ),
        ("encode audio/a.wav", "--output", ("",), "-o expects a file, a folder or -"),
        ("decode a.ecdc -o out.wav", "--start", NUMBERS, ""),
        ("decode a.ecdc -o out.wav", "--duration", NUMBERS[:-1], "the duration must be at least one sample"),
        ("tokenize audio out", "--batch-seconds", NUMBERS[:-1], "--batch-seconds must be above 0"),
        ("tokenize audio out", "--jobs", ("0", "1000000"), "--jobs must be 1 to 1024"),
        ("detokenize tokens out", "--jobs", ("0", "1000000"), "--jobs must be 1 to 1024"),
        ("evaluate --data audio --output out", "--clips", ("0", "-1"), "--clips must be 1 or more"),
        ("evaluate --data audio --output out", "--seconds", NUMBERS[:-1], "--seconds must be above 0"),
        ("evaluate --output out", "--data", ("audio/a.wav", "nowhere"), "--data must be a folder of audio"),
        ("train-entropy --data audio --output out", "--minutes", NUMBERS[:-1], "--minutes must be 0 or more"),
        ("train-entropy --data audio --output out", "--steps", ("0", "-1"), "--steps must be 1 or more"),
        ("train-entropy --data audio", "--output", ("no/out",), "cannot write "),
        ("train-entropy --data audio", "--output", ("audio", "a.ecdc"), "a"),
    ],
)
def test_nonsense_is_one_line_and_writes_nothing(
    command: str, option: str, values: tuple[str, ...], line: str, files: Path, model: str, fails: Callable[..., str]
) -> None:
    before = sorted(files.rglob("*"))
    chosen = [] if option == "--model" else ["--model", model]
    for value in values:
        assert fails(*command.split(), *chosen, f"{option}={value}").startswith(line)
        assert sorted(files.rglob("*")) == before


def test_models_are_not_replaced(files: Path, model: str, fails: Callable[..., str]) -> None:
    mine = Path("model.safetensors")
    mine.write_text("mine")
    for command in ("export . --to half", "import a.ecdc .", "train-entropy --data audio --output model.safetensors"):
        chosen = ["--model", model] if "import" not in command else []
        assert fails(*command.split(), *chosen) == "model.safetensors exists: name another file, or move it away"
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    ["encode IN", "decode IN", "info IN", "tokenize IN out", "tokenize audio IN", "detokenize IN out", "import IN out",
     "export IN --to half", "evaluate --data IN", "evaluate --data audio --output IN", "train-entropy --data IN"],
)  # fmt: skip
def test_an_empty_text_is_not_the_current_folder(
    command: str, files: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(files.rglob("*"))
    with pytest.raises(SystemExit, match="2"):
        run_codec(*("" if word == "IN" else word for word in command.split()))
    assert "expected a file or folder, got an empty text" in capsys.readouterr().err
    assert sorted(files.rglob("*")) == before
