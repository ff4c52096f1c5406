"""MP3, MP2 and MP1: lengths are counted, and every part has the samples of the whole file."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_bytes import encoded, noise, read_in_all_ways, read_source
from codec.audio import AudioFileError, open_audio, read_header, read_range
from codec.audio.formats.mpeg_header import frame_bytes
from data import scan_folder


def mp3(audio: np.ndarray, rate: int, mode: str = "VARIABLE", level: float = 0.5) -> bytes:
    return encoded(audio, "MP3", "MPEG_LAYER_III", rate, bitrate_mode=mode, compression_level=level)


def without_xing(data: bytes) -> bytes:
    """The file without its first frame."""
    return data[frame_bytes(int.from_bytes(data[:4], "big")) :]


def decoded(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]


def loud_and_quiet(rate: int, seconds: float, channels: int) -> np.ndarray:
    audio = noise(round(rate * seconds), channels)
    return audio * np.sin(np.arange(len(audio)) * 4 / rate)[:, None] ** 4


# Rate, channels, mode, level, and whether libsndfile writes a Xing frame. Frames of a few bytes have no place for it.
FILES = [
    (44_100, 1, "VARIABLE", 0.5, True),
    (44_100, 2, "CONSTANT", 0.9, False),
    (22_050, 1, "CONSTANT", 0.99, False),
    (16_000, 2, "VARIABLE", 0.9, True),
    (48_000, 2, "CONSTANT", 0.0, True),
    (8000, 1, "CONSTANT", 0.9, False),
]


def test_variable_bitrate_without_a_xing_frame_is_read_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rate = 44_100
    sine = 0.01 * np.sin(2 * np.pi * 300 / rate * np.arange(6 * rate))
    audio = np.concatenate([noise(2 * rate), sine[:, None]])
    data = without_xing(mp3(audio, rate))
    assert soundfile.info(io.BytesIO(data)).frames < 2 * rate  # what libsndfile takes it for
    samples, notes = read_in_all_ways(tmp_path / "a.mp3", data)
    assert 0 <= len(samples) - 8 * rate < 3 * 1152
    assert notes == []
    delay = 576 + 529
    assert (
        np.sqrt(np.mean((samples[delay:][-2 * rate : -rate] - audio[-2 * rate - 2 * 1152 : -rate - 2 * 1152]) ** 2))
        < 0.02
    )
    (entry,) = scan_folder(tmp_path).entries
    assert entry.frames == len(samples)
    part = read_range(tmp_path / "a.mp3", rate, 1, 7 * rate, 7 * rate + 1000).T.numpy()
    np.testing.assert_array_equal(part, samples[7 * rate : 7 * rate + 1000])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("rate", "channels", "mode", "level", "has_xing"), FILES)
def test_every_part_has_the_samples_of_the_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rate: int, channels: int, mode: str, level: float, has_xing: bool
) -> None:
    data = mp3(loud_and_quiet(rate, 3, channels), rate, mode, level)
    whole = decoded(data)
    starts_within = without_xing(data)[len(data) // 3 :]  # its first frames refer to bytes that are missing
    capfd.readouterr()
    rng = np.random.default_rng(1)
    for name, content in (("a", data), ("b", without_xing(data)), ("c", data + data), ("d", starts_within)):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(content)
        samples, notes = read_source(open_audio(path))
        assert notes == []
        assert len(samples) == read_header(path).frames
        if name == "a":
            np.testing.assert_allclose(samples, whole, rtol=0, atol=2e-6)
        for start in rng.integers(0, len(samples) - 10, 12):
            stop = min(len(samples), start + int(rng.integers(1, rate)))
            part = read_range(path, rate, channels, int(start), stop).T.numpy()
            np.testing.assert_array_equal(part, samples[start:stop])
    assert has_xing == (len(whole) == 3 * rate)
    assert capfd.readouterr().err == ""


DATA = mp3(loud_and_quiet(24_000, 2, 1), 24_000)


@pytest.mark.parametrize(
    "around",
    [
        lambda data: b"ID3\3\0\0\0\0\1\0" + bytes(128) + data,
        lambda data: b"ID3\3\0\0\0\0\0\5" + b"abcde" + b"ID3\4\0\x10\0\0\0\3" + bytes(3) + b"3DI" + bytes(7) + data,
        lambda data: bytes(700) + data,
        lambda data: data + b"TAG" + bytes(125),
        lambda data: data + b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8),
        lambda data: data + b"LYRICSBEGIN" + bytes(20) + b"000031LYRICS200" + b"TAG" + bytes(125),
    ],
)
def test_tags_are_no_audio(tmp_path: Path, capfd: pytest.CaptureFixture[str], around: object) -> None:
    for data in (DATA, without_xing(DATA)):
        expected, _ = read_in_all_ways(tmp_path / "a.mp3", data)
        samples, notes = read_in_all_ways(tmp_path / "b.mp3", around(data))  # type: ignore[operator]
        np.testing.assert_array_equal(samples, expected)
        assert notes == []
    assert capfd.readouterr().err == ""


def test_what_is_missing_or_no_audio_is_said(tmp_path: Path) -> None:
    whole, _ = read_in_all_ways(tmp_path / "a.mp3", DATA)
    frames = without_xing(DATA)
    first = len(DATA) - len(frames)
    for data, said in (
        (DATA[: len(DATA) // 2], "The end of the file is missing: its last frame is cut."),
        (frames[:-5], "The end of the file is missing: its last frame is cut."),
        (
            DATA[: first + frame_bytes(int.from_bytes(frames[:4], "big"))],
            "The file has 1 of the 86 frames that its header",
        ),
        (frames + b"x" * 300, "300 bytes between its frames are no audio of 24000 Hz."),
    ):
        samples, notes = read_in_all_ways(tmp_path / "b.mp3", data)
        assert len(samples) < len(whole) + 3 * 576
        assert len(notes) == 1
        assert notes[0].startswith(said)


def test_frames_behind_bytes_that_are_no_audio_are_read(tmp_path: Path) -> None:
    whole, _ = read_in_all_ways(tmp_path / "a.mp3", without_xing(DATA))
    frames = without_xing(DATA)
    cut = 0
    for _ in range(20):
        cut += frame_bytes(int.from_bytes(frames[cut : cut + 4], "big"))
    samples, notes = read_in_all_ways(tmp_path / "b.mp3", frames[:cut] + b"junk" * 25 + frames[cut:])
    assert samples.shape == whole.shape
    np.testing.assert_array_equal(samples[: 19 * 576], whole[: 19 * 576])
    np.testing.assert_array_equal(samples[40 * 576 :], whole[40 * 576 :])
    assert notes == ["100 bytes between its frames are no audio of 24000 Hz."]


def layer_2_silence(frames: int) -> bytes:
    """Stereo at 44.1 kHz and 128 kbit/s, where a frame takes 417.96 bytes: all but a few have a byte of padding."""
    return b"".join(
        b"\xff\xfd" + (b"\x80" if n % 24 == 0 else b"\x82") + bytes(415 - (n % 24 == 0)) for n in range(frames)
    )


def layer_1_noise(frames: int) -> bytes:
    """Mono at 44.1 kHz and 160 kbit/s: frames of 172 bytes with random samples of 2 bits in all 32 bands."""
    rng = np.random.default_rng(0)
    audio = b""
    for _ in range(frames):
        samples = "".join(format(value, "02b") for value in rng.integers(0, 3, 12 * 32))
        bits = "0001" * 32 + format(10, "06b") * 32 + samples  # allocation, scale factors, samples
        audio += (b"\xff\xff\x50\xc0" + int(bits, 2).to_bytes(len(bits) // 8, "big")).ljust(172, b"\0")
    return audio


def test_frames_of_layer_2_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = layer_2_silence(101)
    for content in (data, data + b"TAG" + bytes(125), bytes(300) + data):
        samples, notes = read_in_all_ways(tmp_path / "a.mp2", content)
        assert (samples.shape, notes) == ((101 * 1152, 2), [])
    samples, notes = read_in_all_ways(tmp_path / "a.mp2", data[:-5])
    assert (len(samples), notes) == (100 * 1152, ["The end of the file is missing: its last frame is cut."])
    assert capfd.readouterr().err == ""


def test_every_part_of_layer_1_has_the_samples_of_the_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = layer_1_noise(100)
    samples, notes = read_in_all_ways(tmp_path / "a.mp1", data)
    assert (samples.shape, notes) == ((100 * 384, 1), [])
    np.testing.assert_array_equal(samples, decoded(data)[: len(samples)])
    assert 0.01 < samples.std() < 1
    rng = np.random.default_rng(1)
    for start in rng.integers(0, len(samples) - 10, 20):
        stop = min(len(samples), start + int(rng.integers(1, 9000)))
        part = read_range(tmp_path / "a.mp1", 44_100, 1, int(start), stop).T.numpy()
        np.testing.assert_array_equal(part, samples[start:stop])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"\xff\xfb\x90\x00" * 3, b"\xff" * 3000, b"ID3\4\0\0\0\0\0\0" + bytes(500)])
def test_other_bytes_are_no_mp3(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp3").write_bytes(content)
    with pytest.raises(AudioFileError, match=r"a\.mp3: not audio"):
        open_audio(tmp_path / "a.mp3")
