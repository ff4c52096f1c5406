"""`codec encode --format encodec` and decoding of such files: compared with the encodec package."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from encodec.model import EncodecModel, LMModel

from codec import EncodedSegment
from codec.bitstream.encodec.header import PACKAGE_CONFIGS, EncodecHeader
from codec.bitstream.encodec.language_model import EncodecLM
from codec.bitstream.encodec.segments import EncodecReader, segment_bytes
from codec.cli import main
from codec.coding import PreparedCodec, open_encoded
from codec.model_file import load_model, save_model
from codec_inputs import seanet_codec
from encodec_package import language_models, package_models, package_reads, package_writes, random_frames, written
from encodec_weights import codec_with_weights_of


@pytest.fixture(scope="module")
def models() -> dict[str, EncodecModel]:
    return package_models()


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LMModel, EncodecLM, Path]]:
    """The package's language models, ours with the same weights, and files with these weights."""
    folder = tmp_path_factory.mktemp("lm")
    for name, (theirs, _) in language_models().items():
        torch.save(theirs.state_dict(), folder / f"{name}.th")
    return {name: (*both, folder / f"{name}.th") for name, both in language_models().items()}


@pytest.fixture(scope="module")
def checkpoints(models: dict[str, EncodecModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        save_model(codec_with_weights_of(model, PACKAGE_CONFIGS[name]), folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in models}


def run(*arguments: str | Path) -> int:
    return main([str(a) for a in arguments])


def command(task: str, source: Path, target: Path, checkpoint: Path, *more: str | Path) -> int:
    return run(task, source, "-f", "-o", target, "--model", checkpoint, "--device", "cpu", *more)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "samples", "compressed"),
    [
        ("encodec_24khz", 8_000, False),
        ("encodec_24khz", 6_000, True),
        ("encodec_48khz", 50_000, False),
        ("encodec_48khz", 3_000, True),
    ],
)
def test_files_decode_in_the_package_and_files_of_the_package_decode_here(
    models: dict[str, EncodecModel], checkpoints: dict[str, Path], lms: dict[str, Any], tmp_path: Path, name: str,
    samples: int, compressed: bool, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model, (their_lm, _, lm_path) = models[name], lms[name]
    audio = 0.1 * torch.randn(model.channels, samples)
    soundfile.write(tmp_path / "in.wav", audio.T.numpy(), model.sample_rate, subtype="FLOAT")
    model.set_target_bandwidth(3.0)
    frames = model.encode(audio[None])
    codec = load_model(checkpoints[name])
    lm = their_lm if compressed else None
    options: list[str | Path] = ["--lm", lm_path] if compressed else []
    theirs = package_writes(model, frames, samples, lm)
    more: list[str | Path] = ["--bitrate", "3", "--format", "encodec", *options]
    assert command("encode", tmp_path / "in.wav", tmp_path / "out.ecdc", checkpoints[name], *more) == 0
    data = (tmp_path / "out.ecdc").read_bytes()
    found, decoded = package_reads(model, data, lm, decode=True)
    assert decoded.shape == audio.shape
    assert len(found) == len(frames)
    for (codes, _), (expected, _) in zip(found, frames, strict=True):
        assert (codes == expected).float().mean() > 0.99  # rounding decides ties
    assert data[: data.index(b"}")] == theirs[: theirs.index(b"}")]
    if lm is None:
        assert len(data) == len(theirs)
    for content, segments in ((theirs, frames), (data, found)):
        (tmp_path / "in.ecdc").write_bytes(content)
        assert command("decode", tmp_path / "in.ecdc", tmp_path / "back.wav", checkpoints[name], *options) == 0
        back, rate = soundfile.read(tmp_path / "back.wav", dtype="float32", always_2d=True)
        assert rate == model.sample_rate
        ours = codec.decode_segments([EncodedSegment(c, s if s is None else s.view(1)) for c, s in segments], samples)[
            0
        ]
        np.testing.assert_allclose(back.T, ours.clamp(-1, 1).numpy(), atol=0.51 / 32768 + 1e-5)
    np.testing.assert_allclose(ours.numpy(), decoded.numpy(), atol=1e-4)
    assert run("info", tmp_path / "in.ecdc") == 0
    table = capsys.readouterr().out
    assert f"{name}, " in table
    assert f"{samples} samples" in table
    assert ("needs --lm" in table) == compressed


def test_a_part_equals_that_part_of_the_whole(
    models: dict[str, EncodecModel], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    frames = random_frames(models["encodec_48khz"], 150_000, 2)
    (tmp_path / "in.ecdc").write_bytes(written("encodec_48khz", frames, 150_000, None))
    checkpoint = checkpoints["encodec_48khz"]
    assert command("decode", tmp_path / "in.ecdc", tmp_path / "all.wav", checkpoint) == 0
    part = ["--start", "2.5", "--duration", "0.25"]
    assert command("decode", tmp_path / "in.ecdc", tmp_path / "part.wav", checkpoint, *part) == 0
    whole = soundfile.read(tmp_path / "all.wav", dtype="int16")[0]
    assert len(whole) == 150_000
    np.testing.assert_array_equal(soundfile.read(tmp_path / "part.wav", dtype="int16")[0], whole[120_000:132_000])


def test_the_format_is_recognized_when_bytes_arrive_one_by_one(checkpoints: dict[str, Path]) -> None:
    codes = torch.randint(1024, (2, 3))
    data = EncodecHeader("encodec_24khz", 900, 2, False).to_bytes() + segment_bytes([codes], None, None)
    reading, writing = os.pipe()

    def write_slowly() -> None:
        for byte in data:
            os.write(writing, bytes([byte]))
        os.close(writing)

    thread = threading.Thread(target=write_slowly)
    thread.start()
    with os.fdopen(reading, "rb") as file:
        reader = open_encoded(PreparedCodec(load_model(checkpoints["encodec_24khz"])), file, "pipe")
        (block,) = reader.blocks()
    thread.join()
    assert isinstance(reader, EncodecReader)
    assert reader.bytes_read == len(data)
    assert torch.equal(torch.from_numpy(block.codes.copy()), codes)


def test_a_file_without_audio_decodes_here_but_not_in_the_package(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, channels in (("encodec_24khz", 1), ("encodec_48khz", 2)):
        soundfile.write(tmp_path / "in.wav", np.zeros((0, channels)), PACKAGE_CONFIGS[name].sample_rate)
        file, back = tmp_path / "out.ecdc", tmp_path / "back.wav"
        assert command("encode", tmp_path / "in.wav", file, checkpoints[name], "--format", "encodec") == 0
        assert "The encodec package itself cannot read files of 0 samples" in capsys.readouterr().err
        assert command("decode", file, back, checkpoints[name]) == 0
        assert len(soundfile.read(back)[0]) == 0


Refusal = tuple[Callable[[Path, dict[str, Path]], list[str | Path]], str]
REFUSALS: dict[str, Refusal] = {
    "lm_needed": (
        lambda here, _: ["decode", here / "lm.ecdc", "-f", "-o", here / "new.wav"],
        "is compressed with the language model of encodec_24khz: pass its weights with --lm",
    ),
    "other_model": (
        lambda here, _: ["decode", here / "48.ecdc", "-f", "-o", here / "new.wav"],
        "was encoded with encodec_48khz, but the model given is encodec_24khz",
    ),
    "lm_missing": (
        lambda here, _: ["decode", here / "lm.ecdc", "-f", "-o", here / "new.wav", "--lm", here / "none.th"],
        "no language model at",
    ),
    "lm_of_the_other": (
        lambda here, lm: ["decode", here / "lm.ecdc", "-f", "-o", here / "new.wav", "--lm", lm["encodec_48khz"]],
        "32 codebooks of 1024 codes: expected emb.16.weight [1025, 200], got none",
    ),
    "lm_damaged": (
        lambda here, _: ["decode", here / "lm.ecdc", "-f", "-o", here / "new.wav", "--lm", here / "lm.ecdc"],
        "corrupt or unsafe",
    ),
    "lm_in_our_format": (
        lambda here, lm: ["encode", here / "in.wav", "-o", here / "new.ecdc", "--lm", lm["encodec_24khz"]],
        "--lm needs --format encodec",
    ),
    "blocks": (
        lambda here, _: ["encode", here / "in.wav", "-o", here / "new.ecdc", "--format=encodec", "--block-frames=2"],
        "--block-frames cannot be used with --format encodec",
    ),
    "architecture": (
        lambda here, _: ["encode", here / "in.wav", "-o", here / "new.ecdc", "--format=encodec", "--model", here / "t"],
        "encodec_24khz has network.filters 32, this model has 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_errors_are_one_line_and_leave_no_file(
    case: str, checkpoints: dict[str, Path], lms: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lm.ecdc").write_bytes(EncodecHeader("encodec_24khz", 320, 2, True).to_bytes() + bytes(100))
    (tmp_path / "48.ecdc").write_bytes(EncodecHeader("encodec_48khz", 320, 2, False).to_bytes() + bytes(100))
    soundfile.write(tmp_path / "in.wav", np.zeros(1_000), 24_000)
    (tmp_path / "t").mkdir()
    save_model(seanet_codec(filters=4, lstm_layers=0), tmp_path / "t" / "model.safetensors")
    make, message = REFUSALS[case]
    arguments = make(tmp_path, {name: path for name, (_, _, path) in lms.items()})
    if "--model" not in arguments:
        arguments += ["--model", checkpoints["encodec_24khz"]]
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("codec: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("new*"))


def test_audio_whose_squares_overflow_is_refused_and_leaves_no_file(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "in.wav", np.full((900, 2), 1e19), 48_000, subtype="FLOAT")
    target = tmp_path / "out.ecdc"
    assert command("encode", tmp_path / "in.wav", target, checkpoints["encodec_48khz"], "--format", "encodec") == 1
    assert capsys.readouterr().err.startswith("codec: this audio is too loud to encode")
    assert not target.exists()


def test_a_truncated_file_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = torch.randint(1024, (2, 75))
    data = EncodecHeader("encodec_24khz", 24_000, 2, False).to_bytes() + segment_bytes([codes], None, None)
    (tmp_path / "whole.ecdc").write_bytes(data)
    (tmp_path / "half.ecdc").write_bytes(data[: len(data) // 2])
    checkpoint = checkpoints["encodec_24khz"]
    assert command("decode", tmp_path / "whole.ecdc", tmp_path / "whole.wav", checkpoint) == 0
    assert len(soundfile.read(tmp_path / "whole.wav")[0]) == 24_000
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert command("decode", Path("half.ecdc"), Path("half.wav"), checkpoint) == 1
    error = capsys.readouterr().err
    assert error.startswith("codec: half.ecdc is truncated")
    assert error.count("\n") == 1
    assert not (tmp_path / "half.wav").exists()
