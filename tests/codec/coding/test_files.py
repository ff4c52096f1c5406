"""`codec.encode_file` and `codec.decode_file`: models, targets, and nothing overwritten."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import codec
from coding_inputs import noise, save_tiny, tiny_codec, write_wav


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_wav("in.wav", noise(4000))
    return tmp_path


def test_a_file_is_coded_with_a_codec_a_run_or_the_bundled_model(here: Path) -> None:
    run = save_tiny("causal", here / "runs")
    result = codec.encode_file("in.wav", model=run)
    assert (result.seconds, result.encoded_bytes) == (4000 / 24_000, Path("in.ecdc").stat().st_size)
    model = tiny_codec("causal")
    codec.encode_file(Path("in.wav"), Path("made/folder/same.ecdc"), model)
    assert Path("in.ecdc").read_bytes() == Path("made/folder/same.ecdc").read_bytes()
    assert any("parametrizations" in name for name in model.state_dict())  # the codec given is not changed

    codec.decode_file("in.ecdc", "back.wav")  # found below ./runs
    codec.decode_file("in.ecdc", "same.wav", model)
    assert Path("back.wav").read_bytes() == Path("same.wav").read_bytes()
    audio, _ = soundfile.read("in.wav", dtype="float32")
    expected = model.decode(model.encode(torch.from_numpy(audio)[None, None], 24_000), 4000)[0, 0]
    np.testing.assert_allclose(soundfile.read("back.wav")[0], expected.clamp(-1, 1 - 2**-15), atol=2**-16 + 1e-6)

    codec.encode_file("in.wav", "bundled.ecdc", bandwidth_kbps=3.0)
    codec.decode_file("bundled.ecdc")
    assert soundfile.info("bundled.wav").frames == 4000


def test_nothing_is_overwritten_without_being_asked(here: Path) -> None:
    model = tiny_codec("causal")
    Path("in.ecdc").write_text("mine")
    write_wav("other.wav", noise(10))
    Path("link.ecdc").symlink_to("in.wav")
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    for target, overwrite, message in [
        (None, False, "in.ecdc exists"),
        ("other.wav", True, "other.wav is the name of an audio file"),
        ("link.ecdc", True, "input and output are the same file"),
        (".", True, "it is a folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            codec.encode_file("in.wav", target, model, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before
    codec.encode_file("in.wav", None, model, overwrite=True)
    with pytest.raises(ValueError, match=r"in\.wav exists"):
        codec.decode_file("in.ecdc", None, model)
    with pytest.raises(ValueError, match=r"new\.ecdc is the name of an encoded file"):
        codec.decode_file("in.ecdc", "new.ecdc", model)
    assert Path("in.wav").read_bytes() == before["in.wav"]


def test_an_unknown_model_is_named(here: Path) -> None:
    model = tiny_codec("causal")
    codec.encode_file("in.wav", "out.ecdc", model)
    with pytest.raises(
        ValueError, match=f"with the model {codec.fingerprint(model)}, which is neither bundled nor below"
    ):
        codec.decode_file("out.ecdc", "back.wav")
    with pytest.raises(ValueError, match="but the model given is the bundled model general"):
        codec.decode_file("out.ecdc", "back.wav", "bundled")
    run = save_tiny("causal", here / "runs")
    with pytest.raises(ValueError, match=f"was encoded with {Path(run).relative_to(here)} "):
        codec.decode_file("out.ecdc", "back.wav", "bundled")
    assert not Path("back.wav").exists()
