"""Audio of all kinds, encoded and decoded with the command.

T samples at rate R have the length ceil(T * r / R) after coding with a model of rate r.
"""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.cli import main
from coding_inputs import save_tiny

MODELS = {"causal": (24_000, 1), "segments": (48_000, 2)}
RATES = (8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: save_tiny(kind, folder) for kind in MODELS}


def coded(run: str, folder: Path, source: str = "in.wav") -> tuple[np.ndarray, int]:
    """The decoded audio [T, C] and its rate."""
    encoded, back = str(folder / "out.ecdc"), str(folder / "back.wav")
    assert main(["encode", str(folder / source), "-f", "-o", encoded, "--model", run]) == 0
    assert main(["decode", encoded, "-f", "-o", back, "--model", run]) == 0
    audio, rate = soundfile.read(back, always_2d=True)
    return audio, rate


def expected_samples(samples: int, source_rate: int, rate: int) -> int:
    return -(-samples * rate // source_rate)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("source_rate", "channels"), list(zip(RATES, 3 * (1, 2, 6), strict=True)))
def test_every_rate_and_channel_count(
    runs: dict[str, str], tmp_path: Path, kind: str, source_rate: int, channels: int
) -> None:
    samples = source_rate // 10 + 7
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (samples, channels))
    soundfile.write(tmp_path / "in.wav", audio, source_rate)
    back, rate = coded(runs[kind], tmp_path)
    assert (rate, back.shape[1]) == MODELS[kind]
    assert len(back) == expected_samples(samples, source_rate, rate)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("samples", "source_rate"), [(0, 8000), (1, 192_000), (1, 8000), (2, 44_100), (319, 24_000), (320, 24_000),
                                 (320, 48_000), (321, 48_000)]
)  # fmt: skip
def test_shortest_audio(runs: dict[str, str], tmp_path: Path, kind: str, samples: int, source_rate: int) -> None:
    soundfile.write(tmp_path / "in.wav", np.full(samples, 0.3), source_rate)
    back, rate = coded(runs[kind], tmp_path)
    assert len(back) == expected_samples(samples, source_rate, rate)


SIGNALS = {
    "silence": lambda t: 0 * t,
    "direct current": lambda t: 0.7 + 0 * t,
    "full-scale square": lambda t: np.where(np.floor(200 * t) % 2, 1.0, -1.0),
    "one impulse": lambda t: np.where(t == 0, 1.0, 0.0),
    "least noise": lambda t: 2.0**-24 * np.sign(np.sin(1e5 * t)),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("signal", SIGNALS)
def test_signals_at_the_limits(runs: dict[str, str], tmp_path: Path, kind: str, signal: str) -> None:
    time = np.arange(30_000) / 44_100
    soundfile.write(tmp_path / "in.wav", SIGNALS[signal](time), 44_100, subtype="FLOAT")
    back, rate = coded(runs[kind], tmp_path)
    assert len(back) == expected_samples(30_000, 44_100, rate)
    assert np.isfinite(back).all()
    if kind == "segments" and signal == "silence":
        assert np.abs(back).max() < 1e-4  # divided by the smallest RMS and multiplied by it again


def test_floats_beyond_full_scale_are_not_clipped(runs: dict[str, str], tmp_path: Path) -> None:
    """A model that normalizes gives the same codes for sixteen times the level."""
    audio = np.random.default_rng(0).uniform(-0.9, 0.9, (40_000, 2))
    sizes = []
    for gain in (1, 16):
        soundfile.write(tmp_path / "in.wav", gain * audio, 48_000, subtype="FLOAT")
        coded(runs["segments"], tmp_path)
        sizes.append((tmp_path / "out.ecdc").read_bytes())
    # Only the scale of each block differs, and with it the checksum.
    assert sum(a != b for a, b in zip(*sizes, strict=True)) <= 2 * (4 + 4)


@pytest.mark.parametrize(("coding", "previous"), [("fixed", b""), ("adaptive", b"an encoded file")])
def test_audio_whose_squares_overflow_is_refused_and_leaves_no_file(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], coding: str, previous: bytes
) -> None:
    """Audio far beyond full scale is coded. If the sum of squares overflows, even at the end only, no file is left."""
    audio = np.random.default_rng(0).uniform(0.5, 0.9, (60_000, 2))
    target = tmp_path / "out.ecdc"
    arguments = [
        "encode",
        str(tmp_path / "in.wav"),
        "-f",
        "-o",
        str(target),
        "--coding",
        coding,
        "--model",
        runs["segments"],
    ]
    soundfile.write(tmp_path / "in.wav", 1e16 * audio, 48_000, subtype="FLOAT")
    coded(runs["segments"], tmp_path)
    target.unlink()
    if previous:
        target.write_bytes(previous)
    audio[:46_000] /= 1e16
    soundfile.write(tmp_path / "in.wav", 1e19 * audio, 48_000, subtype="FLOAT")
    files = sorted(tmp_path.iterdir())
    capsys.readouterr()
    assert main(arguments) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("codec: this audio is too loud to encode")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == files
    assert not previous or target.read_bytes() == previous


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_encoding_of_samples(runs: dict[str, str], tmp_path: Path, kind: str, subtype: str) -> None:
    soundfile.write(tmp_path / "in.wav", np.random.default_rng(0).uniform(-0.9, 0.9, 5000), 24_000, subtype=subtype)
    back, rate = coded(runs[kind], tmp_path)
    assert len(back) == 5000 * rate // 24_000


def wav_with(folder: Path, field: bytes, offset: int, value: bytes) -> None:
    """A WAV of 4000 samples with a wrong value `offset` bytes after the name of a header field."""
    soundfile.write(folder / "in.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 24_000)
    data = bytearray((folder / "in.wav").read_bytes())
    at = data.index(field) + offset
    data[at : at + len(value)] = value
    (folder / "in.wav").write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("value", "samples"),
    [(0xFFFFFFFF, 4000), (0x7FFFF000, 4000), (1_000_000, 4000), (2000, 1000), (2001, 1000)],
)
def test_a_wav_with_a_wrong_length_in_its_header(
    runs: dict[str, str], tmp_path: Path, value: int, samples: int
) -> None:
    wav_with(tmp_path, b"data", 4, struct.pack("<I", value))
    assert len(coded(runs["causal"], tmp_path)[0]) == samples


@pytest.mark.parametrize("claimed_rate", [1, 7, 1000, 999_983, 10_000_000])
def test_a_wav_with_an_odd_rate(runs: dict[str, str], tmp_path: Path, claimed_rate: int) -> None:
    """Memory does not grow with the rate, up to the largest one that is accepted."""
    samples = 20 if claimed_rate < 1000 else 4000
    wav_with(tmp_path, b"fmt ", 12, struct.pack("<I", claimed_rate))
    (tmp_path / "in.wav").write_bytes((tmp_path / "in.wav").read_bytes()[: 44 + 2 * samples])
    back, rate = coded(runs["causal"], tmp_path)
    assert len(back) == expected_samples(samples, claimed_rate, rate)


@pytest.mark.parametrize("channels", [0, 200, 0xFFFF])
def test_a_wav_with_a_wrong_number_of_channels_is_refused_or_coded(
    runs: dict[str, str], tmp_path: Path, channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wav_with(tmp_path, b"fmt ", 10, struct.pack("<H", channels))
    status = main(
        ["encode", str(tmp_path / "in.wav"), "-f", "-o", str(tmp_path / "out.ecdc"), "--model", runs["causal"]]
    )
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert (status, len(errors)) in {(0, 0), (1, 1)}


def test_a_wav_with_an_impossible_rate_is_refused(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wav_with(tmp_path, b"fmt ", 12, struct.pack("<I", 0x7FFFFFFF))
    assert (
        main(["encode", str(tmp_path / "in.wav"), "-f", "-o", str(tmp_path / "out.ecdc"), "--model", runs["causal"]])
        == 1
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{tmp_path / 'in.wav'}: expected a sample rate of 1 to 10000000 Hz" in error
