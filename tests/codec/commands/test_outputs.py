"""Where `codec encode` and `codec decode` write, and that nothing a user has is ever destroyed."""

import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile

from coding_inputs import noise, run_codec, save_tiny, write_wav


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny("causal", tmp_path_factory.mktemp("runs"))


@pytest.fixture
def audio(here: Path) -> Path:
    """A folder with a.wav, b.wav and a.flac, and an encoded file of a.wav."""
    write_wav("a.wav", noise(1000))
    write_wav("b.wav", noise(700))
    soundfile.write("a.flac", noise(100), 24_000)
    return here


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_outputs_lie_beside_their_inputs_unless_they_are_named(run: str, audio: Path) -> None:
    assert run_codec("encode", "a.wav", "b.wav", "--model", run) == 0
    assert run_codec("encode", "a.flac", "-o", "new/folder/x.bin", "--model", run) == 0
    assert run_codec("encode", "a.wav", "-o", "out/", "--model", run) == 0
    assert run_codec("encode", "b.wav", "-o", "out", "--model", run) == 0
    assert Path("a.ecdc").read_bytes() == Path("out/a.ecdc").read_bytes()
    assert Path("b.ecdc").read_bytes() == Path("out/b.ecdc").read_bytes()
    assert run_codec("decode", "out", "-o", "back", "--model", run) == 0
    assert sorted(path.name for path in Path("back").iterdir()) == ["a.wav", "b.wav"]
    assert run_codec("decode", "new/folder/x.bin", "--model", run) == 0
    assert soundfile.info("new/folder/x.wav").frames == 100


REFUSALS = {
    "an audio file as output": (["encode", "a.wav", "-o", "c.wav"], "c.wav is the name of an audio file"),
    "the same with another suffix": (["encode", "a.wav", "-o", "c.FLAC"], "c.FLAC is the name of an audio file"),
    "an encoded file as output": (["decode", "old.ecdc", "-o", "c.ecdc"], "c.ecdc is the name of an encoded file"),
    "raw samples in an encoded file": (["decode", "old.ecdc", "-o", "c.ecdc", "--raw", "s16le"], "an encoded file"),
    "two inputs": (["encode", "a.wav", "a.flac"], "a.wav and a.flac have the same output, a.ecdc"),
    "two inputs in one folder": (["encode", "a.wav", "sub/a.wav", "-o", "out"], "have the same output, out/a.ecdc"),
    "input and output": (["encode", "a.wav", "-o", "a.wav"], "a.wav is the name of an audio file"),
    "through a symbolic link": (["encode", "a.wav", "-o", "soft"], "the output soft is also the input a.wav"),
    "through a hard link": (["encode", "a.wav", "-o", "hard"], "the output hard is also the input a.wav"),
    "another input": (["encode", "a.wav", "b.ecdc", "-o", "out"], "b.ecdc is no audio, but it is given as an input"),
    "an output by position": (
        ["encode", "a.wav", "c.ecdc"],
        "c.ecdc is no audio, but it is given as an input: -o c.ecdc",
    ),
    "an audio output by position": (
        ["decode", "old.ecdc", "b.wav"],
        "b.wav is no encoded audio (.ecdc), but it is given",
    ),
    "a folder": (["encode", "a.wav", "-o", "folder/sub/"], "cannot write folder/sub/a.ecdc: it is a folder"),
    "a link to no file": (["encode", "broken.wav"], "broken.wav is a link to no file"),
    "a loop of links": (["encode", "loop.wav"], "loop.wav is a link to no file"),
    "a file twice": (["encode", "a.wav", "./a.wav", "-o", "c.ecdc"], "several files need a folder as output"),
    "a missing file": (["encode", "a.wav", "missing.wav"], "there is no file missing.wav: did you mean mising.wav?"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_output_changes_no_file_even_with_force(
    run: str, audio: Path, case: str, fails: Callable[..., str]
) -> None:
    assert run_codec("encode", "a.wav", "-o", "old.ecdc", "--model", run) == 0
    Path("sub").mkdir()
    write_wav("sub/a.wav", noise(50))
    Path("soft").symlink_to("a.wav")
    Path("broken.wav").symlink_to("nowhere.wav")
    Path("loop.wav").symlink_to("loop.wav")
    os.link("a.wav", "hard")
    os.link("a.flac", "mising.wav")
    Path("folder/sub/a.ecdc").mkdir(parents=True)
    before = contents(audio)
    arguments, message = REFUSALS[case]
    assert message in fails(*arguments, "-f", "--model", run)
    assert contents(audio) == before


def test_existing_outputs_are_replaced_with_force_only(run: str, audio: Path, fails: Callable[..., str]) -> None:
    Path("a.ecdc").write_text("mine")
    Path("b.ecdc").write_text("mine")
    before = contents(audio)
    error = fails("encode", "a.wav", "b.wav", "--model", run)
    assert error == "a.ecdc and 1 other output exist: -f replaces existing files, -o names another output"
    assert fails("encode", "a.wav", "--model", run).startswith("a.ecdc exists: -f replaces")
    assert contents(audio) == before
    assert run_codec("encode", "a.wav", "b.wav", "-f", "--model", run) == 0
    assert Path("a.ecdc").read_bytes()[:4] == Path("b.ecdc").read_bytes()[:4] == b"ECDC"
    error = fails("decode", "a.ecdc", "--model", run)
    assert error.startswith("a.wav exists: -f replaces")
    assert Path("a.wav").read_bytes() == before["a.wav"]


@pytest.mark.parametrize("name", [b"caf\xe9.wav", "日本 [bold].wav".encode(), b"a" * 250 + b".wav", b"new\nline.wav"])
def test_any_name_of_a_file_works_and_is_printed(
    run: str, here: Path, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(os.fsdecode(name))
    write_wav("plain.wav", noise(100))
    Path("plain.wav").rename(source)
    assert run_codec("encode", source, "-f", "-o", "out.ecdc", "--model", run) == 0
    assert run_codec("encode", here, "-o", "coded", "--model", run) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert out.replace("\n", "").isprintable()
    assert out.count("\n") == 2
    assert os.listdir(os.fsencode(here / "coded")) == [name.replace(b".wav", b".ecdc")]
    assert run_codec("decode", "coded", "-o", "back", "--model", run) == 0
    assert os.listdir(os.fsencode(here / "back")) == [name]


def test_names_in_errors_are_printable(here: Path, fails: Callable[..., str]) -> None:
    Path("\x1b[31mred.safetensors").write_text("none")
    error = fails("info", "\x1b[31mred.safetensors")
    assert error.startswith(r"\x1b[31mred.safetensors is corrupt, or not a safetensors file")


def test_a_name_that_gets_too_long_is_one_line(run: str, here: Path, fails: Callable[..., str]) -> None:
    write_wav("a" * 251 + ".wav", noise(100))
    assert fails("encode", "a" * 251 + ".wav", "--model", run).endswith("a.ecdc: File name too long")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_no_partial_file(run: str, audio: Path, fails: Callable[..., str]) -> None:
    assert fails("encode", "a.wav", "-o", "/dev/full", "--model", run) == "/dev/full: No space left on device"
    assert run_codec("encode", "a.wav", "-o", "old.ecdc", "--model", run) == 0
    before = contents(audio)
    with file_size_limit(100):
        error = fails("encode", "a.wav", "-o", "a.ecdc", "--model", run)
        assert error == "a.ecdc: File too large"
        assert "back.wav" in fails("decode", "old.ecdc", "-o", "back.wav", "--model", run)
        for form in ("half", "transformers"):
            error = fails("export", "model", "--to", form, "--model", run)
            assert error == "model/model.safetensors: File too large"
            assert not Path("model").exists()
    assert contents(audio) == before


def test_a_file_that_may_not_be_read_is_one_line(
    run: str, audio: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for root, who may read all."""
    assert run_codec("tokenize", audio, "tokens", "--model", run, "--jobs", "1") == 0
    locked = {"model.safetensors", "dataset.json", "manifest.jsonl", "tokens-00000.npz"}
    opened = io.open

    def refused(file: Any, *arguments: Any, **settings: Any) -> Any:
        if os.path.basename(os.fspath(file)) in locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)
        return opened(file, *arguments, **settings)

    monkeypatch.setattr(io, "open", refused)
    assert fails("encode", "a.wav", "--model", run) == f"{run}/model.safetensors: Permission denied"
    locked.remove("model.safetensors")
    for name in ("dataset.json", "manifest.jsonl", "tokens-00000.npz"):
        assert fails("detokenize", "tokens", "back", "--model", run) == f"tokens/{name}: Permission denied"
        locked.remove(name)


def test_devices_are_outputs_like_pipes(run: str, audio: Path) -> None:
    assert run_codec("encode", "a.wav", "-o", "/dev/null", "--model", run) == 0
    assert run_codec("encode", "a.wav", "-o", "a.ecdc", "--model", run) == 0
    assert run_codec("decode", "a.ecdc", "-o", "/dev/null", "--model", run) == 0
