"""The program `codec`: as a process, and its exit status for wrong usage."""

from pathlib import Path

import pytest

from codec.cli import main
from codec.model_file import fingerprint, load_model
from coding_inputs import noise, save_tiny, start_codec, write_wav


def test_the_program_as_a_process(here: Path) -> None:
    run = save_tiny("causal", here)
    write_wav("in.wav", noise(4000))

    def codec(*arguments: str) -> tuple[int, str, str]:
        process = start_codec(*arguments)
        out, error = process.communicate()
        return process.returncode, out.decode(), error.decode()

    status, out, error = codec("encode", "in.wav", "out.ecdc", "--model", run)
    assert (status, error) == (0, "")
    assert out.startswith("out.ecdc: 0.17 s, ")
    status, out, error = codec("info", "out.ecdc")
    assert (status, error) == (0, "")
    assert fingerprint(load_model(f"{run}/model.safetensors")) in out
    missing = codec("decode", "no.ecdc", "back.wav", "--model", run)
    assert missing == (1, "", "codec: there is no file no.ecdc\n")


@pytest.mark.parametrize("arguments", [[], ["encode", "in.wav"], ["encode", "a", "b", "--bandwidth", "many"], ["play"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: codec" in capsys.readouterr().err
