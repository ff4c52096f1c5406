"""`codec train-entropy`."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.cli import main
from codec.model_file import fingerprint
from coding_inputs import save_tiny, tiny_codec


def test_encode_uses_the_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = save_tiny("causal", tmp_path, bandwidths_kbps=(0.6, 2.4))
    for name in ("data/a", "data/b", "held/c"):
        Path(name).parent.mkdir(exist_ok=True)
        audio = np.random.default_rng(len(name)).uniform(-0.5, 0.5, 24_000).astype(np.float32)
        soundfile.write(f"{name}.wav", audio, 24_000)
    Path("data/broken.wav").write_bytes(b"RIFF")
    arguments = ["train-entropy", "--model", run, "--data", "data", "--steps", "3"]
    assert main([*arguments, "--held-out", "held", "data"]) == 1
    out, error = capsys.readouterr()
    assert error.count("data/broken.wav") == 2
    model = EntropyModel.load(Path(run) / ENTROPY_NAME)
    assert model.codec_fingerprint == fingerprint(tiny_codec("causal", bandwidths_kbps=(0.6, 2.4)))
    assert f"{run}/{ENTROPY_NAME}: entropy model {model.fingerprint}, " in out
    size = r" +[\d.]+ \([-+][\d.]+ %\)"
    rows = re.findall(rf"^(held|data) +(\d) +(\d+) +([\d.]+){size}{size}$", out, re.M)
    assert [" ".join(row) for row in rows] == ["held 1 75 0.6", "data 2 150 0.6", "held 1 75 2.4", "data 2 150 2.4"]
    assert main(["encode", "held/c.wav", "-f", "-o", "c.ecdc", "--model", run]) == 0
    assert main(["info", "c.ecdc"]) == 0
    assert f"transformer with entropy model {model.fingerprint}" in capsys.readouterr().out

    Path("data/broken.wav").unlink()
    assert main([*arguments, "--output", "again.safetensors"]) == 0
    assert re.search(r"^held out +1 +75 ", capsys.readouterr().out, re.M)
    assert Path("again.safetensors").read_bytes() == (Path(run) / ENTROPY_NAME).read_bytes()
    for more in (["--steps", "4"], ["--seed", "1"]):
        assert main([*arguments, *more, "--output", "other.safetensors"]) == 0
        assert Path("again.safetensors").read_bytes() != Path("other.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--minutes", "1"])
    assert "not allowed with argument --steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: No such file or directory"),
        (
            ["--data", ".", "--model", "bundled"],
            "entropy.safetensors would be written beside a bundled model: name a run with --model, or --output",
        ),
        (["--data", ".", "--minutes", "-1"], "--minutes must be 0 or more, got -1"),
        (["--data", ".", "--minutes", "nan"], "--minutes must be 0 or more, got nan"),
        (["--data", ".", "--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--data", ".", "--output", "no/where"], "cannot write no/where: there is no folder no"),
    ],
)
def test_invalid_options_are_errors_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = save_tiny("causal", tmp_path)
    assert main(["train-entropy", "--model", run, *arguments]) == 1
    assert capsys.readouterr().err == f"codec: {message}\n"
    assert not (Path(run) / ENTROPY_NAME).exists()
