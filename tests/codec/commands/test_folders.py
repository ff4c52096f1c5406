"""`codec encode` and `codec decode` on folders."""

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
    assert run_codec("encode", "music", "coded", "--model", checkpoint) == 1
    out, error = capsys.readouterr()
    assert error.count("\n") == 1
    assert "broken.flac: not audio" in error
    assert "2 of 3 files done" in out
    assert files_below("coded") == ["a.ecdc", "live/b.ecdc"]
    assert run_codec("decode", "coded", "back", "--model", checkpoint) == 0
    assert files_below("back") == ["a.wav", "live/b.wav"]
    assert soundfile.info("back/live/b.wav").frames == 700


def test_impossible_folders_are_refused(checkpoint: str, here: Path, fails: Callable[..., str]) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("do re mi")
    assert "no file in texts has the suffix" in fails("encode", "texts", "out", "--model", checkpoint)
    Path("out").touch()
    assert "but out is a file" in fails("encode", "texts", "out", "--model", checkpoint)
    Path("twins").mkdir()
    write_wav("twins/a.wav", noise(100))
    soundfile.write("twins/a.flac", noise(100), 24_000)
    error = fails("encode", "twins", "coded", "--model", checkpoint)
    assert error.startswith("twins/a.wav and twins/a.flac have the same output, coded/a.ecdc")
