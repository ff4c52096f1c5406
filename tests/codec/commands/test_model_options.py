"""The choice of model and bandwidth, and `codec info`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio

from codec.evaluation.metrics import si_sdr_db
from codec.model_file import fingerprint, load_model
from codec.models import model_path
from coding_inputs import noise, run_codec, save_tiny, write_wav
from data.corpora import CLIPS
from losses import mel_distance


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run folder of a causal codec."""
    return save_tiny("causal", tmp_path_factory.mktemp("runs"), bandwidths_kbps=(0.6, 1.2, 2.4))


def test_an_unknown_bandwidth_is_refused_with_the_offered_ones(
    checkpoint: str, here: Path, fails: Callable[..., str]
) -> None:
    write_wav("in.wav", noise(1000))
    error = fails("encode", "in.wav", "o.ecdc", "--model", checkpoint, "--bandwidth", "3")
    assert error == "this model offers bandwidths of 0.6, 1.2, 2.4 kbps, got 3"


def test_the_bundled_model_codes_speech(here: Path) -> None:
    clip, rate = soundfile.read(sorted((CLIPS / "held_out" / "speech").iterdir())[0], dtype="float32", always_2d=True)
    mono = torch.from_numpy(clip).mean(1)[None, None]
    reference = torchaudio.functional.resample(mono, rate, 24_000)
    write_wav("in.wav", reference[0].T.numpy())
    assert run_codec("encode", "in.wav", "out.ecdc", "--bandwidth", "6") == 0
    assert run_codec("decode", "out.ecdc", "back.wav") == 0
    estimate = torch.from_numpy(soundfile.read("back.wav", dtype="float32")[0])[None, None]
    assert estimate.shape == reference.shape
    assert float(si_sdr_db(estimate, reference)) > 3
    assert float(mel_distance(estimate, reference, 24_000)) < 0.3  # Opus at this rate: 0.54


def test_the_bundled_model_has_the_fingerprint_of_its_card() -> None:
    assert model_path().stat().st_size < 8_000_000
    codec = load_model(model_path())
    card = model_path().with_name("README.md").read_text(encoding="utf-8")
    assert fingerprint(codec) in card


def test_info_describes_files_and_models(
    checkpoint: str, here: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    expected = fingerprint(load_model(f"{checkpoint}/model.safetensors"))
    for path in (checkpoint, f"{checkpoint}/model.safetensors"):
        assert run_codec("info", path) == 0
        out = capsys.readouterr().out
        assert expected in out
        assert "0.6, 1.2, 2.4 kbps" in out
    write_wav("in.wav", noise(24_000))
    assert run_codec("encode", "in.wav", "out.ecdc", "--model", checkpoint) == 0
    capsys.readouterr()
    assert run_codec("info", "out.ecdc") == 0
    out = capsys.readouterr().out
    assert "24000 samples at 24000 Hz, 1 channel" in out
    assert "8 codebooks of 4 bits, 75 frames of 320 samples in 1 block" in out
    Path("notes.txt").write_text("do re mi")
    assert "safetensors" in fails("info", "notes.txt")
    assert "no model at no" in fails("info", "no")
