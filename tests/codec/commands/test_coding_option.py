"""Entropy coding on the command line: `codec encode --coding`, `--entropy`, and decoding."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import encode_file
from codec.bitstream import BitstreamReader
from codec.bitstream.entropy.coders import RANDOM_ACCESS_FRAMES
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.bitstream.entropy.network import EntropyConfig
from codec.cli import main
from codec.model_file import fingerprint, save_model
from coding_inputs import KINDS, TINY, save_tiny, tiny_codec
from entropy_inputs import CODEC_FINGERPRINT, random_network

SIZE = EntropyConfig(TINY["num_codebooks"], TINY["codebook_size"], 20, dim=16, layers=1, heads=2, hidden=16)
CODINGS = ("fixed", "adaptive", "transformer")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run folders, each with an entropy model."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {kind: save_tiny(kind, folder) for kind in KINDS}
    for kind, run in runs.items():
        EntropyModel.from_network(random_network(SIZE), fingerprint(tiny_codec(kind))).save(Path(run) / ENTROPY_NAME)
    return runs


def write_noise(path: str, seconds: float, sample_rate: int = 24_000, channels: int = 1) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * sample_rate), channels))
    soundfile.write(path, audio.astype(np.float32), sample_rate, subtype="FLOAT")


def header_of(path: str) -> dict[str, object]:
    data = Path(path).read_bytes()
    header: dict[str, object] = json.loads(data[9 : 9 + struct.unpack(">I", data[5:9])[0]])
    return header


@pytest.mark.parametrize(("kind", "seconds"), [("causal", 7.0), ("segments", 0.8), ("whole", 1.0)])
def test_all_codings_decode_to_the_same_audio(runs: dict[str, str], here: Path, kind: str, seconds: float) -> None:
    config = tiny_codec(kind).config
    write_noise("in.wav", seconds, config.sample_rate, config.channels)
    decoded = {}
    for coding in CODINGS:
        assert main(["encode", "in.wav", "-f", "-o", "out.ecdc", "--coding", coding, "--model", runs[kind]]) == 0
        assert main(["decode", "out.ecdc", "-f", "-o", "back.wav", "--model", runs[kind]]) == 0
        assert header_of("out.ecdc")["coding"] == coding
        decoded[coding] = Path("back.wav").read_bytes()
    assert decoded["fixed"] == decoded["adaptive"] == decoded["transformer"]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", ["causal", "causal_no_lstm", "segments", "whole"])
def test_a_part_equals_that_part_of_the_whole(
    runs: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch, kind: str, coding: str
) -> None:
    """With a random access point every 75 frames: three blocks of a stream, or one segment of half a second."""
    monkeypatch.setitem(RANDOM_ACCESS_FRAMES, coding, 75)
    config = tiny_codec(kind).config
    write_noise("in.wav", 2.3 if config.causal else 1.6, config.sample_rate, config.channels)
    options = ["--coding", coding, "--model", runs[kind]] + (["--block-frames", "25"] if config.causal else [])
    assert main(["encode", "in.wav", "-f", "-o", "out.ecdc", *options]) == 0
    assert main(["decode", "out.ecdc", "-f", "-o", "whole.wav", "--model", runs[kind]]) == 0
    whole = soundfile.read("whole.wav")[0]
    for start in (0.2, 2.2) if config.causal else (0.2, 1.3):
        part = ["--start", str(start), "--duration", "0.1", "--model", runs[kind]]
        assert main(["decode", "out.ecdc", "-f", "-o", "part.wav", *part]) == 0
        first = round(start * config.sample_rate)
        want = whole[first : first + round(0.1 * config.sample_rate)]
        np.testing.assert_allclose(soundfile.read("part.wav")[0], want, rtol=0, atol=2**-14)


def test_the_default_coding_depends_on_the_entropy_model(runs: dict[str, str], here: Path) -> None:
    write_noise("in.wav", 0.5)
    plain = here / "plain"
    plain.mkdir()
    save_model(tiny_codec("causal"), plain / "model.safetensors")
    for run, options, coding in [
        (runs["causal"], [], "transformer"),
        (str(plain), [], "adaptive"),
        (str(plain), ["--entropy", f"{runs['causal']}/{ENTROPY_NAME}"], "transformer"),
        (runs["causal"], ["--block-frames", "2"], "fixed"),
        (runs["causal"], ["--block-frames", "2", "--coding", "adaptive"], "adaptive"),
    ]:
        assert main(["encode", "in.wav", "-f", "-o", "out.ecdc", "--model", run, *options]) == 0
        assert header_of("out.ecdc")["coding"] == coding
        assert main(["decode", "out.ecdc", "-f", "-o", "back.wav", "--model", runs["causal"]]) == 0


@pytest.mark.parametrize(
    ("options", "interval"),
    [
        (["--coding", "fixed"], 1),
        (["--coding", "adaptive"], 8),
        (["--coding", "transformer"], 2),
        (["--block-frames", "4"], 128),
        (["--block-frames", "3000", "--coding", "adaptive"], 1),
    ],
)
def test_the_header_has_the_random_access_interval(
    runs: dict[str, str], here: Path, options: list[str], interval: int
) -> None:
    write_noise("in.wav", 0.5)
    assert main(["encode", "in.wav", "-f", "-o", "out.ecdc", "--model", runs["causal"], *options]) == 0
    assert header_of("out.ecdc")["random_access_interval"] == interval


def test_a_missing_or_wrong_entropy_model_is_named(runs: dict[str, str], here: Path, fails: Callable[..., str]) -> None:
    write_noise("in.wav", 0.5)
    run = runs["causal"]
    assert main(["encode", "in.wav", "-f", "-o", "out.ecdc", "--model", run]) == 0
    mine = str(header_of("out.ecdc")["entropy_model"])
    plain = here / "plain"
    plain.mkdir()
    codec = tiny_codec("causal")
    save_model(codec, plain / "model.safetensors")
    decode = ["decode", "out.ecdc", "-f", "-o", "back.wav", "--model", str(plain)]
    error = fails(*decode)
    assert f"out.ecdc needs the entropy model {mine}: " in error
    assert f"{plain}/{ENTROPY_NAME}" in error
    assert main([*decode, "--entropy", f"{run}/{ENTROPY_NAME}"]) == 0

    other = EntropyModel.from_network(random_network(SIZE, seed=1), fingerprint(codec))
    other.save(plain / ENTROPY_NAME)
    error = fails(*decode)
    assert f"out.ecdc was encoded with entropy model {mine}" in error
    assert f"{plain}/{ENTROPY_NAME} is {other.fingerprint}" in error
    foreign = EntropyModel.from_network(random_network(SIZE), CODEC_FINGERPRINT)
    foreign.save(plain / ENTROPY_NAME)
    belongs = (
        f"{plain}/{ENTROPY_NAME} belongs to codec {CODEC_FINGERPRINT}, but the codec given is {fingerprint(codec)}"
    )
    assert belongs in fails(*decode)
    assert belongs in fails("encode", "in.wav", "-f", "-o", "new.ecdc", "--model", str(plain))
    (plain / ENTROPY_NAME).write_bytes(b"\x00" * 50)
    assert "not a safetensors file" in fails(*decode)
    (plain / ENTROPY_NAME).unlink()
    error = fails("encode", "in.wav", "-f", "-o", "new.ecdc", "--coding", "transformer", "--model", str(plain))
    assert f"no entropy model at {plain}/{ENTROPY_NAME}" in error
    assert "codec train-entropy" in error
    assert not Path("new.ecdc").exists()
    # The other codings do not need it.
    assert main(["encode", "in.wav", "-f", "-o", "out.ecdc", "--model", str(plain)]) == 0
    assert main(decode) == 0


def test_info_prints_the_saving(runs: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("silence.wav", np.zeros(240_000), 24_000)
    model = ["--model", runs["causal"]]
    for coding, expected in (("fixed", "coding        fixed\n"), ("adaptive", "% less than fixed\n")):
        assert main(["encode", "silence.wav", "-f", "-o", "out.ecdc", "--coding", coding, *model]) == 0
        capsys.readouterr()
        assert main(["info", "out.ecdc"]) == 0
        assert expected in capsys.readouterr().out
    write_noise("short.wav", 0.01)
    assert main(["encode", "short.wav", "-f", "-o", "out.ecdc", *model]) == 0
    capsys.readouterr()
    assert main(["info", "out.ecdc"]) == 0
    out = capsys.readouterr().out
    assert f"transformer with entropy model {header_of('out.ecdc')['entropy_model']}: " in out
    assert "% more than fixed" in out  # the range coder writes words of 4 bytes


def test_a_codec_without_segments_writes_several_blocks(runs: dict[str, str], here: Path) -> None:
    write_noise("in.wav", 7.5)
    assert main(["encode", "in.wav", "-f", "-o", "out.ecdc", "--coding", "fixed", "--model", runs["whole"]]) == 0
    with Path("out.ecdc").open("rb") as file:
        blocks = list(BitstreamReader(file, "out.ecdc").stored_blocks())
    assert [block.frames for block in blocks] == [512, 51]


@pytest.mark.parametrize("frames", [0, -1, 4097])
def test_block_sizes_out_of_range_are_refused(
    runs: dict[str, str], here: Path, fails: Callable[..., str], frames: int
) -> None:
    write_noise("in.wav", 0.5)
    error = fails("encode", "in.wav", "-f", "-o", "out.ecdc", "--block-frames", str(frames), "--model", runs["causal"])
    assert f"a block must have 1 to 4096 frames, got {frames}" in error


def test_segments_too_long_for_a_block_are_refused(here: Path) -> None:
    write_noise("in.wav", 0.1)
    codec = tiny_codec("segments", segment_seconds=60.0)
    with pytest.raises(ValueError, match="a block must have 1 to 4096 frames, got 9000"):
        encode_file("in.wav", "out.ecdc", codec)
