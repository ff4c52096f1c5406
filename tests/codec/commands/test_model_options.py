"""The choice of model and bandwidth, and `codec info`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio

from codec.evaluation.metrics import si_sdr_db
from codec.model_file import fingerprint, load_model
from coding_inputs import noise, run_codec, save_tiny, write_wav
from data.corpora import CLIPS
from losses import mel_distance


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run folder of a causal codec."""
    return save_tiny("causal", tmp_path_factory.mktemp("runs"), bandwidths_kbps=(0.6, 1.2, 2.4))


def test_an_unknown_bitrate_is_refused_with_the_offered_ones(
    checkpoint: str, here: Path, fails: Callable[..., str]
) -> None:
    write_wav("in.wav", noise(1000))
    error = fails("encode", "in.wav", "-f", "-o", "o.ecdc", "--model", checkpoint, "--bitrate", "3")
    assert error == "this model offers bitrates of 0.6, 1.2, 2.4 kbit/s, got 3"


def test_the_bundled_model_codes_speech(here: Path) -> None:
    clip, rate = soundfile.read(sorted((CLIPS / "held_out" / "speech").iterdir())[0], dtype="float32", always_2d=True)
    mono = torch.from_numpy(clip).mean(1)[None, None]
    reference = torchaudio.functional.resample(mono, rate, 24_000)
    write_wav("in.wav", reference[0].T.numpy())
    save_tiny("causal", Path("runs"))  # which encode does not take unless it is told
    assert run_codec("encode", "in.wav", "-f", "-o", "out.ecdc", "--bitrate", "6") == 0
    assert run_codec("decode", "out.ecdc", "-f", "-o", "back.wav") == 0
    estimate = torch.from_numpy(soundfile.read("back.wav", dtype="float32")[0])[None, None]
    assert estimate.shape == reference.shape
    assert float(si_sdr_db(estimate, reference)) > 3
    assert float(mel_distance(estimate, reference, 24_000)) < 0.3  # Opus at this rate: 0.54


def test_info_describes_files_and_models(
    checkpoint: str, here: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    expected = fingerprint(load_model(f"{checkpoint}/model.safetensors"))
    for path in (checkpoint, f"{checkpoint}/model.safetensors"):
        assert run_codec("info", path) == 0
        out = capsys.readouterr().out
        assert expected in out
        assert "0.6, 1.2, 2.4 kbit/s" in out
    write_wav("in.wav", noise(24_000))
    assert run_codec("encode", "in.wav", "-f", "-o", "out.ecdc", "--model", checkpoint) == 0
    capsys.readouterr()
    assert run_codec("info", "out.ecdc") == 0
    out = capsys.readouterr().out
    assert "24000 samples at 24000 Hz, 1 channel" in out
    assert "8 codebooks of 4 bits, 75 frames of 320 samples in 1 block" in out
    Path("notes.txt").write_text("do re mi")
    assert fails("info", "-") == "info reads files by name: - is a pipe"
    assert fails("info", "notes.txt").startswith("notes.txt: not audio that libsndfile can read")
    assert "no model at no" in fails("info", "no")
    assert fails("info", "no.wav") == "there is no file no.wav"
    Path("in.wav").rename("in.wav.bak")
    assert run_codec("info", "in.wav.bak") == 0
    assert "24000 samples" in capsys.readouterr().out


def test_info_names_the_run_of_an_encoded_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_tiny("causal", here / "runs")
    write_wav("in.wav", noise(24_000))
    assert run_codec("encode", "in.wav", "--model", run, "-q") == 0
    assert capsys.readouterr().out == ""
    fingerprint_ = fingerprint(load_model(f"{run}/model.safetensors"))
    assert run_codec("info", "in.ecdc") == 0
    assert f"encoded with  runs/causal ({fingerprint_})\n" in capsys.readouterr().out
    Path("runs").rename("other")
    assert run_codec("info", "in.ecdc") == 0
    assert f"encoded with  {fingerprint_}, not found\n" in capsys.readouterr().out


def test_info_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_tiny("causal", Path("runs"))
    Path("coded").mkdir()
    write_wav("coded/in.wav", noise(12_000, 2), 48_000)
    Path("coded/broken.ecdc").write_bytes(b"ECDC")
    assert run_codec("encode", "coded/in.wav", "--model", run, "-q") == 0
    capsys.readouterr()
    assert run_codec("info", "--json", "coded", run, "bundled") == 1
    out, error = capsys.readouterr()
    encoded, audio, model, bundled = map(json.loads, out.splitlines())
    size = Path("coded/in.ecdc").stat().st_size
    expected = {"file": "coded/in.ecdc", "kind": "encoded", "samples": 6000, "sample_rate": 24_000, "seconds": 0.25,
                "channels": 1, "bytes": size, "kbps": 8 * size / 250, "codebooks": 8, "frames": 19,
                "source_sample_rate": 48_000, "source_channels": 2,
                "model": "runs/causal/model.safetensors"}  # fmt: skip
    assert expected.items() <= encoded.items()
    assert {"kind": "audio", "samples": 12_000, "sample_rate": 48_000, "channels": 2}.items() <= audio.items()
    assert model["fingerprint"] == encoded["fingerprint"]
    assert model["config"]["bandwidths_kbps"] == [2.4]
    assert bundled["kind"] == "model"
    assert error == "codec: coded/broken.ecdc is truncated or corrupt: it ends too early\n"


def test_decode_finds_the_model_by_the_fingerprint(here: Path, fails: Callable[..., str]) -> None:
    """Encoding takes the bundled model, however new the runs are."""
    run = save_tiny("causal", here / "runs")
    write_wav("in.wav", noise(2400))
    assert run_codec("encode", "in.wav", "-o", "bundled.ecdc") == 0
    assert run_codec("encode", "in.wav", "-o", "run.ecdc", "--model", run) == 0
    assert run_codec("decode", "bundled.ecdc", "run.ecdc", "-o", "back") == 0
    assert run_codec("decode", "run.ecdc", "-o", "given.wav", "--model", run) == 0
    assert Path("back/run.wav").read_bytes() == Path("given.wav").read_bytes() != Path("back/bundled.wav").read_bytes()
    error = fails("decode", "run.ecdc", "-o", "x.wav", "--model", "bundled")
    assert error.startswith("run.ecdc was encoded with runs/causal (")
    assert "but the model given is the bundled model general (" in error
    Path("runs").rename("other")
    assert "which is neither bundled nor below runs/" in fails("decode", "run.ecdc", "-o", "x.wav")
    assert not Path("x.wav").exists()
