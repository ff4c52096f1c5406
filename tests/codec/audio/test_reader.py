"""Reading audio from start to end, and parts of files."""

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from codec.audio import AudioFile, AudioFileError, AudioReader, convert_channels, read_header, read_range, resample
from data.corpora import CLIPS


def read(path: Path, sample_rate: int = 24_000, channels: int = 1) -> tuple[Tensor, AudioReader]:
    reader = AudioReader(path, sample_rate, channels)
    return torch.cat(list(reader.blocks()), -1), reader


def noise(samples: int, channels: int = 1, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_reading_equals_converting_the_whole_file(tmp_path: Path, channels: int) -> None:
    audio = noise(100_001, channels)
    soundfile.write(tmp_path / "a.wav", audio, 44_100, subtype="FLOAT")
    got, reader = read(tmp_path / "a.wav")
    expected = resample(convert_channels(torch.from_numpy(audio.T), 1), 44_100, 24_000)
    assert reader.samples == expected.shape[1] == got.shape[1]
    assert torch.equal(got, expected)
    assert reader.conversions()[-1] == "resampled from 44100 to 24000 Hz"
    assert reader.notes == []


@pytest.mark.parametrize(
    ("present", "said"), [(1, ["1 channel repeated to 2"]), (2, []), (6, ["6 channels mixed to 2"])]
)
def test_conversions_are_said(tmp_path: Path, present: int, said: list[str]) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((10, present)), 24_000)
    got, reader = read(tmp_path / "a.wav", channels=2)
    assert got.shape == (2, 10)
    assert reader.conversions() == said


@pytest.mark.parametrize("format_", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("rate", [8000, 22_050, 24_000, 44_100, 48_000, 192_000, 44_101])
def test_a_part_equals_that_part_of_the_file_read_whole(tmp_path: Path, rate: int, format_: str) -> None:
    path = tmp_path / f"noise.{format_.lower()}"
    soundfile.write(path, noise(round(0.7 * rate), 2), rate, format=format_)
    whole, _ = read(path, channels=2)
    total = whole.shape[1]
    ranges = ((0, 1), (0, 2400), (1, 2400), (7001, 11_802), (total - 500, total), (total - 10, total + 89), (0, total))
    # libsndfile decodes Ogg differently by up to 3e-7 after a seek.
    for start, stop in ranges:
        part = read_range(path, 24_000, 2, start, stop)
        assert part.shape == (2, min(stop, total) - start)
        torch.testing.assert_close(part, whole[:, start:stop], atol=2e-6, rtol=0)
    assert read_range(path, 24_000, 1).shape == (1, total)


def test_a_part_from_the_end_on_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(12_000), 24_000)
    with pytest.raises(AudioFileError, match=r"a\.wav: ends before 0\.500 s"):
        read_range(tmp_path / "a.wav", 24_000, 1, 12_000, 12_100)


def test_every_embedded_clip_decodes_in_parts() -> None:
    for path in sorted(CLIPS.rglob("*.ogg")) + sorted(CLIPS.rglob("*.flac")):
        header = read_header(path)
        with AudioFile(path) as file:
            whole = file.read_frames(0, file.frames)
            part = file.read_frames(file.frames // 3, file.frames // 3 + 5000)
        assert whole.shape == (header.channels, header.frames)
        torch.testing.assert_close(part, whole[:, header.frames // 3 :][:, :5000], atol=1e-6, rtol=0)
        assert header.sample_rate >= 24_000


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_shortest_files(tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(samples, 0.5), 24_000)
    assert read(tmp_path / "a.wav")[0].shape == (1, samples)
    soundfile.write(tmp_path / "b.wav", np.full(samples, 0.5), 48_000)
    assert read(tmp_path / "b.wav")[0].shape == (1, -(-samples // 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_refused_with_their_frame(tmp_path: Path, value: float) -> None:
    audio = noise(70_000, 2)
    audio[50_000, 1], audio[60_000, 0] = value, np.nan
    soundfile.write(tmp_path / "bad.wav", audio, 24_000, subtype="FLOAT")
    message = r"bad\.wav: .*NaN or infinite.* frame 50000$"
    with pytest.raises(AudioFileError, match=message):
        read(tmp_path / "bad.wav")
    with pytest.raises(AudioFileError, match=message):
        read_range(tmp_path / "bad.wav", 24_000, 1, 49_000, 51_000)
    assert read_range(tmp_path / "bad.wav", 24_000, 1, 0, 50_000).shape == (1, 50_000)


def test_samples_too_large_to_filter_are_refused(tmp_path: Path) -> None:
    square = np.where(np.arange(9600) // 48 % 2, 3.3e38, -3.3e38).astype(np.float32)  # its overshoot exceeds 3.4e38
    soundfile.write(tmp_path / "huge.wav", square, 96_000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"huge\.wav: .*too large"):
        read_range(tmp_path / "huge.wav", 24_000, 1, 0, 2400)


@pytest.mark.parametrize("content", [b"", b"plain text, no audio\n" * 50, b"RIFF", bytes(range(256)) * 20])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "raw"])
def test_other_files_are_not_audio(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    for opens in (read_header, lambda path: AudioReader(path, 24_000, 1)):
        with pytest.raises(
            AudioFileError, match="not audio that libsndfile can read" if content else "is empty"
        ) as caught:
            opens(path)
        assert caught.value.name == str(path)


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("phone.wav", b"\0\0\0\x1cftypM4A \0\0\2\0" + bytes(100), ".mp4"),
        ("video.webm", b"\x1aE\xdf\xa3\x9fB\x86\x81\1" + bytes(100), ".webm"),
        ("other.wv", b"wvpk" + bytes(100), ".wv"),
        ("other.aac", b"\xff\xf1\x50\x80" + bytes(100), ".aac"),
    ],
)
def test_formats_that_libsndfile_does_not_decode_have_a_way_out(
    tmp_path: Path, name: str, content: bytes, format: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioFileError, match=rf"cannot decode \{format}: .* ffmpeg -i in\{format} out\.flac$"):
        read_header(tmp_path / name)


@pytest.mark.parametrize(("name", "said"), [("absent", "no such file"), ("folder", "is not"), ("fifo", "is not")])
def test_a_missing_file_says_so(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "fifo.wav")  # opening it would block
    with pytest.raises(AudioFileError, match=rf"{name}\.wav: .*{said}"):
        read_header(tmp_path / f"{name}.wav")


def test_any_file_name_the_system_allows_is_opened(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(100), 24_000)
    name = os.fsdecode(b"\xff \xe4\n.wav")  # not UTF-8
    os.rename(tmp_path / "a.wav", tmp_path / name)
    assert read_header(tmp_path / name) == (24_000, 1, 100)


@pytest.mark.parametrize("rate", [0, 10_000_001, 0x7FFFFFFF])
def test_rates_that_cannot_be_true_are_refused(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", noise(100), 24_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(AudioFileError, match=r"a\.wav: (.*1 to 10000000 Hz.* \d+$|not audio)"):
        read_header(tmp_path / "a.wav")


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(AudioFileError("a.wav", "no such file")))
    assert (str(error), error.name, error.reason) == ("a.wav: no such file", "a.wav", "no such file")
