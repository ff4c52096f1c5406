"""`codec encode` and `codec decode` on files: results, conversions, invalid input, memory."""

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from bitstream_inputs import with_checksum
from codec import Codec
from codec.bitstream import BitstreamReader
from codec.commands import batch
from codec.model_file import fingerprint, save_model
from coding_inputs import ROOT, noise, run_codec, save_tiny, tiny_codec, write_wav

# The kind in `coding_inputs`, and what differs from it.
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("causal", {"bandwidths_kbps": (0.6, 1.2, 2.4)}),
    "segments": ("segments", {"bandwidths_kbps": (1.2, 4.8)}),
    "whole": ("whole", {"skip": "identity"}),
    "causal_normalized": ("causal", {"normalize": True}),
}


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Codec, str]]:
    """Codecs of each kind and their run folders."""
    root = tmp_path_factory.mktemp("runs")
    return {
        name: (tiny_codec(kind, **changes), save_tiny(kind, root / name, **changes))
        for name, (kind, changes) in CODECS.items()
    }


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("samples", [1, 3, 319, 30_000, 100_001])
def test_files_equal_codec_encode_and_decode(
    codecs: dict[str, tuple[Codec, str]], here: Path, kind: str, samples: int
) -> None:
    codec, checkpoint = codecs[kind]
    audio = noise(samples, codec.config.channels)
    write_wav("in.wav", audio, codec.config.sample_rate)
    assert run_codec("encode", "in.wav", "-f", "-o", "out.ecdc", "--coding", "fixed", "--model", checkpoint) == 0
    assert run_codec("decode", "out.ecdc", "-f", "-o", "back.wav", "--model", checkpoint) == 0

    segments = codec.encode_segments(torch.from_numpy(audio.T.copy())[None])
    with Path("out.ecdc").open("rb") as file:
        reader = BitstreamReader(file, "out.ecdc")
        blocks = list(reader.blocks())
    assert reader.samples == samples
    expected_codes = torch.cat([segment.codes[0] for segment in segments], -1).numpy()
    np.testing.assert_array_equal(np.concatenate([block.codes for block in blocks], -1), expected_codes)
    if codec.config.normalize:
        assert [block.gain for block in blocks] == [float(s.gain) for s in segments if s.gain is not None]
    back, rate = soundfile.read("back.wav", always_2d=True)
    assert (rate, back.shape) == (codec.config.sample_rate, audio.shape)
    expected = codec.decode_segments(segments, samples)[0].T.clamp(-1, 1 - 2**-15).numpy()
    np.testing.assert_allclose(back, expected, rtol=0, atol=2**-16 + 1e-6)
    assert sorted(p.name for p in here.iterdir()) == ["back.wav", "in.wav", "out.ecdc"]


@pytest.mark.parametrize("kind", CODECS)
def test_a_signal_of_no_samples_round_trips(codecs: dict[str, tuple[Codec, str]], here: Path, kind: str) -> None:
    checkpoint = codecs[kind][1]
    write_wav("in.wav", noise(0))
    assert run_codec("encode", "in.wav", "-f", "-o", "out.ecdc", "--model", checkpoint) == 0
    assert run_codec("decode", "out.ecdc", "-f", "-o", "back.wav", "--model", checkpoint) == 0
    assert soundfile.info("back.wav").frames == 0
    assert run_codec("info", "out.ecdc") == 0


def test_bitrate_and_conversions_are_printed(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = codecs["causal"][1]
    write_wav("in.wav", noise(441_000, 2), 44_100)
    assert (
        run_codec(
            "encode", "in.wav", "-f", "-o", "out.ecdc", "--coding", "fixed", "--model", checkpoint, "--bitrate", "1.2"
        )
        == 0
    )
    size = Path("out.ecdc").stat().st_size
    # 10 s of 75 frames with 4 codes of 4 bits are 1500 bytes, plus the header and two blocks.
    assert 1500 < size < 1900
    assert re.fullmatch(
        rf"out\.ecdc: 10\.00 s, {8 * size / 10 / 1000:.2f} kbit/s \({size} bytes\), [\d.]+x real time; "
        r"2 channels mixed to 1; resampled from 44100 to 24000 Hz\n",
        capsys.readouterr().out,
    )
    write_wav("eight.wav", noise(3000, 8), 8000)
    assert run_codec("encode", "eight.wav", "-f", "-o", "out.ecdc", "--model", codecs["segments"][1]) == 0
    assert "8 channels mixed to 2; resampled from 8000 to 48000 Hz" in capsys.readouterr().out


def test_what_may_surprise_is_a_note_and_details_are_printed_if_asked(
    codecs: dict[str, tuple[Codec, str]], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = 8 * noise(1000)
    write_wav("in.wav", np.concatenate([loud, -loud], 1))
    for option in ("-q", "-v"):
        assert run_codec("encode", "in.wav", "-f", option, "--model", codecs["causal"][1]) == 0
        printed = capsys.readouterr()
        assert (printed.out == "") == (option == "-q")
        assert ("in.wav: 24000 Hz, 2 channels\n" in printed.err) == (option == "-v")
        assert "note: in.wav: The peak is 3.999, 12.0 dB above full scale" in printed.err
        assert "note: in.wav: The channels cancel each other" in printed.err


class Terminal(io.StringIO):
    """As wide as a terminal usually is."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("inputs", [["a.wav"], ["a.wav", "b.wav"]])
def test_a_terminal_has_a_bar(
    inputs: list[str], codecs: dict[str, tuple[Codec, str]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in inputs:
        write_wav(name, noise(1000))
    monkeypatch.setattr(batch, "_bar", partial(batch._bar, after_seconds=0.0))  # else the bar of a file comes late
    for stderr, arguments, is_shown in (
        (Terminal(), [], True),
        (Terminal(), ["-q"], False),
        (io.StringIO(), [], False),
    ):
        monkeypatch.setattr("sys.stderr", stderr)
        assert run_codec("encode", *inputs, "-f", *arguments, "--model", codecs["causal"][1]) == 0
        title = "a.wav" if len(inputs) == 1 else "files"
        assert (title in stderr.getvalue() and "100%" in stderr.getvalue()) == is_shown


def test_clipping_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = tiny_codec("causal")
    bias = codec.decoder.layers[-1].conv.bias
    bias.data.fill_(3.0)
    save_model(codec, here / "loud.safetensors")
    write_wav("in.wav", noise(1000))
    assert run_codec("encode", "in.wav", "-f", "-o", "out.ecdc", "--model", "loud.safetensors") == 0
    assert run_codec("decode", "out.ecdc", "-f", "-o", "back.wav", "--model", "loud.safetensors") == 0
    assert "note: out.ecdc: 1000 samples of the decoded audio are above full scale" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_formats(codecs: dict[str, tuple[Codec, str]], here: Path, suffix: str) -> None:
    checkpoint = codecs["causal"][1]
    soundfile.write(f"in.{suffix}", noise(2000), 24_000)
    assert run_codec("encode", f"in.{suffix}", "-f", "-o", "out.ecdc", "--model", checkpoint) == 0
    assert run_codec("decode", "out.ecdc", "-f", "-o", f"back.{suffix}", "--model", checkpoint) == 0
    assert soundfile.info(f"back.{suffix}").frames == 2000


def test_invalid_audio_is_one_line(codecs: dict[str, tuple[Codec, str]], here: Path, fails: Callable[..., str]) -> None:
    checkpoint = codecs["causal"][1]
    Path("notes.txt").write_text("do re mi\n" * 100)
    Path("empty.wav").touch()
    write_wav("nan.wav", np.array([0, np.nan], np.float32))
    write_wav("in.wav", noise(100))
    for source, message in [
        ("no.wav", "there is no file no.wav"),
        ("notes.txt", "notes.txt: not audio"),
        ("empty.wav", "empty.wav: is empty"),
        ("nan.wav", "nan.wav: has a sample that is NaN or infinite, the first at frame 1"),
    ]:
        assert message in fails("encode", source, "-f", "-o", "out.ecdc", "--model", checkpoint)
    assert "no model at no" in fails("encode", "in.wav", "-f", "-o", "out.ecdc", "--model", "no")
    assert "safetensors" in fails("encode", "in.wav", "-f", "-o", "out.ecdc", "--model", "notes.txt")
    bad_device = ("encode", "in.wav", "-f", "-o", "out.ecdc", "--model", checkpoint, "--device", "abacus")
    assert "the device abacus cannot be used" in fails(*bad_device)
    assert sorted(p.name for p in here.iterdir()) == ["empty.wav", "in.wav", "nan.wav", "notes.txt"]


def test_invalid_encoded_files_are_one_line_and_leave_no_file(
    codecs: dict[str, tuple[Codec, str]], here: Path, fails: Callable[..., str]
) -> None:
    codec, checkpoint = codecs["causal"]
    write_wav("in.wav", noise(300_000))
    assert run_codec("encode", "in.wav", "-f", "-o", "good.ecdc", "--model", checkpoint) == 0
    data = Path("good.ecdc").read_bytes()
    middle = len(data) // 2
    files = {
        "short.ecdc": (data[:-1], "truncated"),
        "flipped.ecdc": (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "checksum of a block"),
        "foreign.ecdc": (b"RIFF" + data, "is not an encoded file"),
        "encodec.ecdc": (b"ECDC\0" + data[5:], "invalid"),
        "empty.ecdc": (b"", "is not an encoded file"),
        "end.ecdc": (data[:-22] + with_checksum(struct.pack(">HQQ", 0, 299_000, 938)), "announces 299000"),
    }
    for name, (content, message) in files.items():
        Path(name).write_bytes(content)
        assert message in fails("decode", name, "-f", "-o", "back.wav", "--model", checkpoint)
    other = codecs["whole"]
    error = fails("decode", "good.ecdc", "-f", "-o", "back.wav", "--model", other[1])
    assert fingerprint(codec) in error
    assert fingerprint(other[0]) in error
    assert "not as .mp3" in fails("decode", "good.ecdc", "-f", "-o", "back.mp3", "--model", checkpoint)
    assert sorted(p.name for p in here.iterdir()) == sorted(["in.wav", "good.ecdc", *files])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("segments", "segment 0 has 200 frames, but this model's have at most 75"),
        ("causal_normalized", "its blocks are one segment, but they have different gains"),
    ],
)
def test_blocks_that_do_not_fit_the_model_are_refused(
    codecs: dict[str, tuple[Codec, str]], here: Path, kind: str, message: str, fails: Callable[..., str]
) -> None:
    codec, checkpoint = codecs[kind]
    write_wav("in.wav", noise(1000, codec.config.channels), codec.config.sample_rate)
    assert run_codec("encode", "in.wav", "-f", "-o", "good.ecdc", "--coding", "fixed", "--model", checkpoint) == 0
    data = Path("good.ecdc").read_bytes()
    header_end = 9 + struct.unpack(">I", data[5:9])[0] + 4
    frames = 200
    blocks = [
        with_checksum(struct.pack(">HIQf", 0x8000 | frames, frames * 4, first, scale) + bytes(frames * 4))
        for first, scale in ((0, 1.0), (frames, 2.0))
    ]
    end = with_checksum(struct.pack(">HQQ", 0, 2 * frames * 320, 2 * frames))
    Path("bad.ecdc").write_bytes(data[:header_end] + b"".join(blocks) + end)
    assert message in fails("decode", "bad.ecdc", "-f", "-o", "back.wav", "--model", checkpoint)


def test_a_header_that_contradicts_the_model_is_refused(
    codecs: dict[str, tuple[Codec, str]], here: Path, fails: Callable[..., str]
) -> None:
    checkpoint = codecs["causal"][1]
    write_wav("in.wav", noise(1000))
    assert run_codec("encode", "in.wav", "-f", "-o", "good.ecdc", "--model", checkpoint) == 0
    data = Path("good.ecdc").read_bytes()
    header_end = 9 + struct.unpack(">I", data[5:9])[0]
    for old, new, message in [
        (b'"num_codebooks":8', b'"num_codebooks":9', "it has 9 codebooks, but the model has 8"),
        (b'"hop_samples":320', b'"hop_samples":640', "its hop_samples is 640, but the model has 320"),
    ]:
        start = data[:header_end].replace(old, new)
        Path("bad.ecdc").write_bytes(with_checksum(start) + data[header_end + 4 :])
        assert message in fails("decode", "bad.ecdc", "-f", "-o", "back.wav", "--model", checkpoint)


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
    main(["encode", name + ".wav", "--model", sys.argv[1]])
    main(["decode", name + ".ecdc", "-o", name + ".back.wav", "--model", sys.argv[1]])
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    root = ROOT
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", program, codecs["causal"][1]]
    out = subprocess.run(line, capture_output=True, text=True, env=environment, check=True).stdout
    short, long = (int(row.split()[1]) * 1024 for row in out.splitlines() if row.startswith("peak"))
    assert soundfile.info("long.back.wav").frames == 120 * 24_000
    assert long - short < 8e6
