"""`codec encode` and `codec decode` on folders."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from coding_inputs import noise, run_codec, save_tiny, write_wav


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run folder of a causal codec."""
    return save_tiny("causal", tmp_path_factory.mktemp("runs"), bandwidths_kbps=(0.6, 1.2, 2.4))


def files_below(folder: str) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_a_folder_is_mirrored_and_one_invalid_file_does_not_stop_it(
    checkpoint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("music/live").mkdir(parents=True)
    write_wav("music/a.wav", noise(1000))
    write_wav("music/live/b.WAV", noise(700))
    Path("music/broken.flac").write_bytes(b"fLaC and no more")
    Path("music/cover.txt").write_text("not audio")
    assert run_codec("encode", "music", "-f", "-o", "coded", "--model", checkpoint) == 1
    out, error = capsys.readouterr()
    assert error.count("\n") == 1
    assert "broken.flac: not audio" in error
    assert re.search(r"^2 of 3 files done, 0\.07 s of audio, [\d.]+x real time$", out, re.M)
    assert files_below("coded") == ["a.ecdc", "live/b.ecdc"]
    assert run_codec("decode", "coded", "-f", "-o", "back", "--model", checkpoint) == 0
    assert files_below("back") == ["a.wav", "live/b.wav"]
    assert soundfile.info("back/live/b.wav").frames == 700


def test_impossible_folders_are_refused(checkpoint: str, here: Path, fails: Callable[..., str]) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("do re mi")
    Path("texts/a.m4a").write_text("do re mi")
    error = fails("encode", "texts", "-o", "out", "--model", checkpoint)
    assert error.startswith("there is no audio in texts (texts/a.m4a: ")
    Path("music").mkdir()
    write_wav("music/a.wav", noise(100))
    Path("file").touch()
    for output, message in [
        ("file", "several files need a folder as output, but file is a file"),
        ("all.ecdc", "several files need a folder as output, but all.ecdc is the name of a file"),
    ]:
        assert fails("encode", "music", "-f", "-o", output, "--model", checkpoint) == message


def test_skipped_files_are_listed(checkpoint: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("music").mkdir()
    write_wav("music/a.wav", noise(100))
    Path("music/b.m4a").touch()
    assert run_codec("encode", "music", "-o", "coded", "--model", checkpoint) == 0
    assert "note: skipped music/b.m4a: " in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_give_the_same_files_and_one_failure_does_not_stop_the_others(
    checkpoint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("music").mkdir()
    for i in range(4):
        write_wav(f"music/{i}.wav", noise(1000 + i))
    Path("music/broken.flac").write_bytes(b"fLaC and no more")
    assert run_codec("encode", "music", "-o", "one", "--model", checkpoint) == 1
    capsys.readouterr()
    assert run_codec("encode", "music", "-o", "two", "--model", checkpoint, "--jobs", "2") == 1
    out, error = capsys.readouterr()
    assert files_below("one") == files_below("two") == [f"{i}.ecdc" for i in range(4)]
    assert all(Path(f"one/{i}.ecdc").read_bytes() == Path(f"two/{i}.ecdc").read_bytes() for i in range(4))
    assert "4 of 5 files done" in out
    assert error.startswith("codec: music/broken.flac: not audio")
    assert error.count("\n") == 1
