"""`codec encode` and `codec decode` on files and folders, `codec info`, and the choice of a model."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from codec import Codec
from codec.bitstream import BitstreamReader
from codec.cli import main
from codec.commands.model_options import BUNDLED
from codec.evaluation.metrics import si_sdr_db
from codec.model_file import fingerprint, load_model, save_model
from codec_inputs import seanet_codec
from data.corpora import CLIPS
from losses import mel_distance

TINY: dict[str, Any] = {
    "sample_rate": 24_000,
    "filters": 4,
    "strides": (2, 4, 5, 8),
    "latent_dim": 16,
    "num_codebooks": 8,
    "codebook_size": 16,
    "lstm_layers": 1,
    "bandwidths_kbps": (0.6, 1.2, 2.4),
}
KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "segments": {
        "sample_rate": 48_000,
        "channels": 2,
        "causal": False,
        "norm": "time_group_norm",
        "normalize": True,
        "segment_seconds": 0.5,
        "bandwidths_kbps": (1.2, 4.8),
    },
    "whole": {"causal": False, "padding": "constant", "skip": "identity"},
    "causal_normalized": {"normalize": True},
}


def save_codec(path: Path, seed: int = 1, **changes: Any) -> Codec:
    """A codec whose latents vary more than those of a new encoder, so that no two codes are equally near."""
    torch.manual_seed(seed)
    codec = seanet_codec(**(TINY | changes)).eval()
    with torch.no_grad():
        for name, parameter in codec.encoder.named_parameters():
            if name.endswith(("conv.weight", "weight.original0")):
                parameter *= 2
        codec.quantizer.initialize(codec.encoder(torch.randn(1, codec.config.channels, 48_000))[0].t(), seed=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(codec, path)
    return codec


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Codec, str]]:
    """Codecs of each kind and their run folders."""
    root = tmp_path_factory.mktemp("runs")
    return {
        name: (save_codec(root / name / "model.safetensors", **changes), str(root / name))
        for name, changes in KINDS.items()
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def write_wav(path: Path | str, audio: np.ndarray, sample_rate: int = 24_000) -> None:
    soundfile.write(path, audio, sample_rate, subtype="FLOAT")


def run(*arguments: str | Path) -> int:
    return main([str(a) for a in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Runs a command that must exit with 1 and returns its one line on stderr."""
    capsys.readouterr()
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("codec: ")
    assert error.count("\n") == 1
    return error.strip().removeprefix("codec: ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 3, 319, 30_000, 100_001])
def test_files_equal_codec_encode_and_decode(
    codecs: dict[str, tuple[Codec, str]], here: Path, kind: str, samples: int
) -> None:
    codec, checkpoint = codecs[kind]
    audio = noise(samples, codec.config.channels)
    write_wav("in.wav", audio, codec.config.sample_rate)
    assert run("encode", "in.wav", "out.ecdc", "--coding", "fixed", "--checkpoint", checkpoint) == 0
    assert run("decode", "out.ecdc", "back.wav", "--checkpoint", checkpoint) == 0

    segments = codec.encode(torch.from_numpy(audio.T.copy())[None])
    with Path("out.ecdc").open("rb") as file:
        reader = BitstreamReader(file, "out.ecdc")
        blocks = list(reader.blocks())
    assert reader.samples == samples
    expected_codes = torch.cat([segment.codes[0] for segment in segments], -1).numpy()
    np.testing.assert_array_equal(np.concatenate([block.codes for block in blocks], -1), expected_codes)
    if codec.config.normalize:
        assert [block.gain for block in blocks] == [float(s.scale) for s in segments if s.scale is not None]
    back, rate = soundfile.read("back.wav", always_2d=True)
    assert (rate, back.shape) == (codec.config.sample_rate, audio.shape)
    expected = codec.decode(segments, samples)[0].T.clamp(-1, 1 - 2**-15).numpy()
    np.testing.assert_allclose(back, expected, rtol=0, atol=2**-16 + 1e-6)
    assert sorted(p.name for p in here.iterdir()) == ["back.wav", "in.wav", "out.ecdc"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_of_no_samples_round_trips(codecs: dict[str, tuple[Codec, str]], here: Path, kind: str) -> None:
    checkpoint = codecs[kind][1]
    write_wav("in.wav", noise(0))
    assert run("encode", "in.wav", "out.ecdc", "--checkpoint", checkpoint) == 0
    assert run("decode", "out.ecdc", "back.wav", "--checkpoint", checkpoint) == 0
    assert soundfile.info("back.wav").frames == 0
    assert run("info", "out.ecdc") == 0


def test_the_program_as_a_process(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec, checkpoint = codecs["causal"]
    write_wav("in.wav", noise(4000))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).parents[3]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", "codec", *arguments]
        return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)

    encoded = command("encode", "in.wav", "out.ecdc", "--checkpoint", checkpoint)
    assert (encoded.returncode, encoded.stderr) == (0, "")
    assert encoded.stdout.startswith("out.ecdc: 0.17 s, ")
    assert run("decode", "out.ecdc", "back.flac", "--checkpoint", checkpoint) == 0
    assert soundfile.info("back.flac").frames == 4000
    assert run("info", "out.ecdc") == 0
    assert fingerprint(codec) in capsys.readouterr().out
    missing = command("decode", "no.ecdc", "back.wav", "--checkpoint", checkpoint)
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, "", "codec: there is no file no.ecdc\n")


@pytest.mark.parametrize("arguments", [[], ["encode", "in.wav"], ["encode", "a", "b", "--bandwidth", "many"], ["play"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: codec" in capsys.readouterr().err


def test_bitrate_and_conversions_are_printed(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = codecs["causal"][1]
    write_wav("in.wav", noise(441_000, 2), 44_100)
    assert (
        run("encode", "in.wav", "out.ecdc", "--coding", "fixed", "--checkpoint", checkpoint, "--bandwidth", "1.2") == 0
    )
    size = Path("out.ecdc").stat().st_size
    # 10 s of 75 frames with 4 codes of 4 bits are 1500 bytes, plus the header and two blocks.
    assert 1500 < size < 1900
    assert capsys.readouterr().out == (
        f"out.ecdc: 10.00 s, {8 * size / 10 / 1000:.2f} kbps ({size} bytes); 2 channels mixed to 1; "
        f"resampled from 44100 to 24000 Hz\n"
    )
    write_wav("eight.wav", noise(3000, 8), 8000)
    assert run("encode", "eight.wav", "out.ecdc", "--checkpoint", codecs["segments"][1]) == 0
    assert "8 channels mixed to 2; resampled from 8000 to 48000 Hz" in capsys.readouterr().out


def test_clipping_is_reported(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = save_codec(here / "loud.safetensors")
    bias = codec.decoder.layers[-1].conv.bias
    bias.data.fill_(3.0)
    save_model(codec, here / "loud.safetensors")
    write_wav("in.wav", noise(1000))
    assert run("encode", "in.wav", "out.ecdc", "--checkpoint", "loud.safetensors") == 0
    assert run("decode", "out.ecdc", "back.wav", "--checkpoint", "loud.safetensors") == 0
    assert "1000 samples clipped to full scale" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_formats(codecs: dict[str, tuple[Codec, str]], here: Path, suffix: str) -> None:
    checkpoint = codecs["causal"][1]
    soundfile.write(f"in.{suffix}", noise(2000), 24_000)
    assert run("encode", f"in.{suffix}", "out.ecdc", "--checkpoint", checkpoint) == 0
    assert run("decode", "out.ecdc", f"back.{suffix}", "--checkpoint", checkpoint) == 0
    assert soundfile.info(f"back.{suffix}").frames == 2000


def test_an_unknown_bandwidth_is_refused_with_the_offered_ones(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav("in.wav", noise(1000))
    error = fails(capsys, "encode", "in.wav", "o.ecdc", "--checkpoint", codecs["causal"][1], "--bandwidth", "3")
    assert error == "this model offers bandwidths of 0.6, 1.2, 2.4 kbps, got 3"


def test_the_bundled_model_codes_speech_if_there_is_no_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, rate = soundfile.read(sorted((CLIPS / "held_out" / "speech").iterdir())[0], dtype="float32", always_2d=True)
    mono = torch.from_numpy(clip).mean(1)[None, None]
    reference = torchaudio.functional.resample(mono, rate, 24_000)
    write_wav("in.wav", reference[0].T.numpy())
    assert run("encode", "in.wav", "out.ecdc", "--bandwidth", "6") == 0
    assert capsys.readouterr().out.startswith(f"using {BUNDLED}\n")
    assert run("decode", "out.ecdc", "back.wav") == 0
    estimate = torch.from_numpy(soundfile.read("back.wav", dtype="float32")[0])[None, None]
    assert estimate.shape == reference.shape
    assert float(si_sdr_db(estimate, reference)) > 3
    assert float(mel_distance(estimate, reference, 24_000)) < 0.3  # Opus at this rate: 0.54


def test_the_bundled_model_has_the_fingerprint_of_its_card() -> None:
    assert BUNDLED.stat().st_size < 8_000_000
    codec = load_model(BUNDLED)
    card = BUNDLED.with_name("README.md").read_text(encoding="utf-8")
    assert fingerprint(codec) in card


def test_the_newest_run_is_the_default(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wav("in.wav", noise(1000))
    for seed, name in enumerate(["b", "c", "a"]):
        save_codec(here / "runs" / name / "model.safetensors", seed)
        os.utime(here / "runs" / name / "model.safetensors", (seed, 1000 - (seed - 1) ** 2))
    assert run("encode", "in.wav", "out.ecdc") == 0
    assert capsys.readouterr().out.startswith("using runs/c/model.safetensors\n")


def test_info_describes_files_and_models(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec, checkpoint = codecs["causal"]
    for path in (checkpoint, f"{checkpoint}/model.safetensors"):
        assert run("info", path) == 0
        out = capsys.readouterr().out
        assert fingerprint(codec) in out
        assert "0.6, 1.2, 2.4 kbps" in out
    write_wav("in.wav", noise(24_000))
    assert run("encode", "in.wav", "out.ecdc", "--checkpoint", checkpoint) == 0
    capsys.readouterr()
    assert run("info", "out.ecdc") == 0
    out = capsys.readouterr().out
    assert "24000 samples at 24000 Hz, 1 channels" in out
    assert "8 codebooks of 4 bits, 75 frames of 320 samples in 1 blocks" in out
    Path("notes.txt").write_text("do re mi")
    assert "notes.txt is damaged or no safetensors file" in fails(capsys, "info", "notes.txt")
    assert "no model file at no" in fails(capsys, "info", "no")


def test_invalid_audio_is_one_line(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = codecs["causal"][1]
    Path("notes.txt").write_text("do re mi\n" * 100)
    Path("empty.wav").touch()
    write_wav("nan.wav", np.array([0, np.nan], np.float32))
    write_wav("in.wav", noise(100))
    for source, message in [
        ("no.wav", "there is no file no.wav"),
        ("notes.txt", "notes.txt: not audio"),
        ("empty.wav", "empty.wav: not audio"),
        ("nan.wav", "nan.wav: has a sample that is NaN or infinite, the first at frame 1"),
    ]:
        assert message in fails(capsys, "encode", source, "out.ecdc", "--checkpoint", checkpoint)
    assert "same file" in fails(capsys, "encode", "in.wav", "in.wav", "--checkpoint", checkpoint)
    assert "there is no folder" in fails(capsys, "encode", "in.wav", "no/out.ecdc", "--checkpoint", checkpoint)
    assert "no model file at no" in fails(capsys, "encode", "in.wav", "out.ecdc", "--checkpoint", "no")
    assert "safetensors" in fails(capsys, "encode", "in.wav", "out.ecdc", "--checkpoint", "notes.txt")
    bad_device = ("encode", "in.wav", "out.ecdc", "--checkpoint", checkpoint, "--device", "abacus")
    assert "the device abacus cannot be used" in fails(capsys, *bad_device)
    assert sorted(p.name for p in here.iterdir()) == ["empty.wav", "in.wav", "nan.wav", "notes.txt"]


def test_invalid_encoded_files_are_one_line_and_leave_no_file(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec, checkpoint = codecs["causal"]
    write_wav("in.wav", noise(300_000))
    assert run("encode", "in.wav", "good.ecdc", "--checkpoint", checkpoint) == 0
    data = Path("good.ecdc").read_bytes()
    middle = len(data) // 2
    files = {
        "short.ecdc": (data[:-1], "truncated"),
        "flipped.ecdc": (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "checksum of a block"),
        "foreign.ecdc": (b"RIFF" + data, "is not an encoded file"),
        "encodec.ecdc": (b"ECDC\0" + data[5:], "invalid"),
        "empty.ecdc": (b"", "is not an encoded file"),
        "end.ecdc": (data[:-22] + checked(struct.pack(">HQQ", 0, 299_000, 938)), "announces 299000"),
    }
    for name, (content, message) in files.items():
        Path(name).write_bytes(content)
        assert message in fails(capsys, "decode", name, "back.wav", "--checkpoint", checkpoint)
    other = codecs["whole"]
    error = fails(capsys, "decode", "good.ecdc", "back.wav", "--checkpoint", other[1])
    assert fingerprint(codec) in error
    assert other[0].fingerprint() in error
    assert "not as '.mp3'" in fails(capsys, "decode", "good.ecdc", "back.mp3", "--checkpoint", checkpoint)
    assert sorted(p.name for p in here.iterdir()) == sorted(["in.wav", "good.ecdc", *files])


def checked(part: bytes) -> bytes:
    return part + struct.pack(">I", zlib.crc32(part))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("segments", "segment 0 has 200 frames, but this model's have at most 75"),
        ("causal_normalized", "its blocks are one segment, but they have different gains"),
    ],
)
def test_blocks_that_do_not_fit_the_model_are_refused(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    codec, checkpoint = codecs[kind]
    write_wav("in.wav", noise(1000, codec.config.channels), codec.config.sample_rate)
    assert run("encode", "in.wav", "good.ecdc", "--coding", "fixed", "--checkpoint", checkpoint) == 0
    data = Path("good.ecdc").read_bytes()
    header_end = 9 + struct.unpack(">I", data[5:9])[0] + 4
    frames = 200
    blocks = [
        checked(struct.pack(">HIQf", 0x8000 | frames, frames * 4, first, scale) + bytes(frames * 4))
        for first, scale in ((0, 1.0), (frames, 2.0))
    ]
    end = checked(struct.pack(">HQQ", 0, 2 * frames * 320, 2 * frames))
    Path("bad.ecdc").write_bytes(data[:header_end] + b"".join(blocks) + end)
    assert message in fails(capsys, "decode", "bad.ecdc", "back.wav", "--checkpoint", checkpoint)


def test_a_header_that_contradicts_the_model_is_refused(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = codecs["causal"][1]
    write_wav("in.wav", noise(1000))
    assert run("encode", "in.wav", "good.ecdc", "--checkpoint", checkpoint) == 0
    data = Path("good.ecdc").read_bytes()
    header_end = 9 + struct.unpack(">I", data[5:9])[0]
    for old, new, message in [
        (b'"num_codebooks":8', b'"num_codebooks":9', "it has 9 codebooks, but the model has 8"),
        (b'"hop_samples":320', b'"hop_samples":640', "its hop_samples is 640, but the model has 320"),
    ]:
        start = data[:header_end].replace(old, new)
        Path("bad.ecdc").write_bytes(checked(start) + data[header_end + 4 :])
        assert message in fails(capsys, "decode", "bad.ecdc", "back.wav", "--checkpoint", checkpoint)


def test_a_folder_is_mirrored_and_one_invalid_file_does_not_stop_it(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = codecs["causal"][1]
    Path("music/live").mkdir(parents=True)
    write_wav("music/a.wav", noise(1000))
    write_wav("music/live/b.WAV", noise(700))
    Path("music/broken.flac").write_bytes(b"fLaC and no more")
    Path("music/cover.txt").write_text("not audio")
    assert run("encode", "music", "coded", "--checkpoint", checkpoint) == 1
    out, error = capsys.readouterr()
    assert error.count("\n") == 1
    assert "broken.flac: not audio" in error
    assert "2 of 3 files done" in out
    assert files_below("coded") == ["a.ecdc", "live/b.ecdc"]
    assert run("decode", "coded", "back", "--checkpoint", checkpoint) == 0
    assert files_below("back") == ["a.wav", "live/b.wav"]
    assert soundfile.info("back/live/b.wav").frames == 700


def files_below(folder: str) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_impossible_folders_are_refused(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = codecs["causal"][1]
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("do re mi")
    assert "no file in texts has the suffix" in fails(capsys, "encode", "texts", "out", "--checkpoint", checkpoint)
    Path("out").touch()
    assert "but out is a file" in fails(capsys, "encode", "texts", "out", "--checkpoint", checkpoint)
    Path("twins").mkdir()
    write_wav("twins/a.wav", noise(100))
    soundfile.write("twins/a.flac", noise(100), 24_000)
    error = fails(capsys, "encode", "twins", "coded", "--checkpoint", checkpoint)
    assert error.startswith("twins/a.wav and twins/a.flac have the same output, coded/a.ecdc")


def test_memory_does_not_grow_with_the_length_of_the_file(codecs: dict[str, tuple[Codec, str]], here: Path) -> None:
    """The peak memory for 2 min of audio is at most 8 MB above that for 10 s; 2 min of samples are 11.5 MB."""
    for name, seconds in (("short", 10), ("long", 120)):
        with soundfile.SoundFile(f"{name}.wav", "w", 24_000, 1) as file:
            for second in range(seconds):
                file.write(noise(24_000 + second)[:24_000])
    program = """
import resource, sys
from codec.cli import main
for name in ("short", "long"):
    main(["encode", name + ".wav", name + ".ecdc", "--checkpoint", sys.argv[1]])
    main(["decode", name + ".ecdc", name + ".back.wav", "--checkpoint", sys.argv[1]])
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", program, codecs["causal"][1]]
    out = subprocess.run(line, capture_output=True, text=True, env=environment, check=True).stdout
    short, long = (int(row.split()[1]) * 1024 for row in out.splitlines() if row.startswith("peak"))
    assert soundfile.info("long.back.wav").frames == 120 * 24_000
    assert long - short < 8e6
