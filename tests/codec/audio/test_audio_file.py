"""Reading and writing audio block by block."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchaudio.functional import resample

from codec.audio.reader import AudioFileError, AudioReader, writing_audio
from codec.audio.resampling import Resampler, mix_channels


def read(path: Path, sample_rate: int = 24_000, channels: int = 1) -> tuple[Tensor, AudioReader]:
    reader = AudioReader(path, sample_rate, channels)
    return torch.cat(list(reader.blocks()), -1), reader


def resample_in_pieces(audio: Tensor, source: int, target: int, sizes: list[int]) -> Tensor:
    resampler = Resampler(source, target)
    pieces = []
    for size in sizes:
        pieces.append(resampler.push(audio[:, :size]))
        audio = audio[:, size:]
    return torch.cat([*pieces, resampler.push(audio), resampler.flush(audio.shape[0])], -1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    source=st.sampled_from([8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000]),
    target=st.sampled_from([16_000, 24_000, 32_000, 44_100, 48_000]),
    samples=st.integers(0, 6000),
    sizes=st.lists(st.sampled_from([0, 1, 5, 100, 441, 1000]), max_size=8),
)
def test_resampling_in_pieces_equals_torchaudio_on_the_whole(
    source: int, target: int, samples: int, sizes: list[int]
) -> None:
    audio = torch.rand(2, samples, generator=torch.Generator().manual_seed(samples)) * 2 - 1
    got = resample_in_pieces(audio, source, target, sizes)
    # In float64: torchaudio's float32 weights are off by up to 4e-6.
    expected = resample(audio.double(), source, target) if samples else audio
    assert got.shape == expected.shape
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=1e-6)


def test_rates_without_a_common_divisor_keep_a_tone() -> None:
    """torchaudio's table for these two rates would take 4 GB."""
    source, target = 44_101, 24_000
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(source, dtype=torch.float64) / source).float()[None]
    got = resample_in_pieces(tone, source, target, [10_000, 20_000])
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(target, dtype=torch.float64) / target).float()[None]
    assert got.shape == (1, target)
    torch.testing.assert_close(got[:, 100:-100], expected[:, 100:-100], rtol=0, atol=2e-3)


def test_channels_are_mixed_or_duplicated() -> None:
    audio = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.5, 0.1]])
    torch.testing.assert_close(mix_channels(audio, 1), torch.tensor([[0.5, 0.2]]))
    torch.testing.assert_close(mix_channels(audio, 2), torch.tensor([[0.5, 0.2], [0.5, 0.2]]))
    assert torch.equal(mix_channels(audio[:1], 2), audio[:1].repeat(2, 1))
    assert torch.equal(mix_channels(audio[:2], 2), audio[:2])


def test_reading_equals_converting_the_whole_file(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (100_001, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 44_100, subtype="FLOAT")
    got, reader = read(tmp_path / "a.wav")
    expected = resample(torch.from_numpy(audio.mean(1, keepdims=True).T).double(), 44_100, 24_000)
    assert reader.samples == expected.shape[1] == got.shape[1]
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6)
    assert reader.conversions() == ["2 channels mixed to one", "resampled from 44100 to 24000 Hz"]
    assert reader.shortfall() is None


def test_conversions_to_stereo_are_said(tmp_path: Path) -> None:
    for channels, sentence in [
        (1, ["one channel put on both sides"]),
        (2, []),
        (6, ["6 channels mixed to one on both"]),
    ]:
        soundfile.write(tmp_path / "a.wav", np.zeros((10, channels)), 24_000)
        got, reader = read(tmp_path / "a.wav", channels=2)
        assert got.shape == (2, 10)
        assert [said.removesuffix(" sides") for said in reader.conversions()] == [
            s.removesuffix(" sides") for s in sentence
        ]


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_shortest_files(tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(samples, 0.5), 24_000)
    assert read(tmp_path / "a.wav")[0].shape == (1, samples)
    soundfile.write(tmp_path / "b.wav", np.full(samples, 0.5), 48_000)
    assert read(tmp_path / "b.wav")[0].shape == (1, -(-samples // 2))


def test_samples_that_are_no_numbers_are_refused_with_their_place(tmp_path: Path) -> None:
    audio = np.zeros((70_000, 2), np.float32)
    audio[50_000, 1], audio[60_000, 0] = np.nan, np.inf
    soundfile.write(tmp_path / "a.wav", audio, 24_000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"NaN or infinite, the first is number 50000$"):
        read(tmp_path / "a.wav")


def test_files_that_are_no_audio_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("do re mi\n" * 100)
    (tmp_path / "empty.wav").touch()
    for name, sentence in [
        ("notes.txt", "not audio that can be read"),
        ("empty.wav", "not audio"),
        ("no", "no audio file"),
    ]:
        with pytest.raises(AudioFileError, match=sentence):
            AudioReader(tmp_path / name, 24_000, 1)


def test_a_damaged_flac_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 100_000), 24_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioFileError, match=r"a\.flac is (damaged after \d+ samples|not audio that can be read) \("):
        read(path)


@pytest.mark.parametrize(
    ("suffix", "sentence"),
    [
        ("wav", r"its audio is \d+ bytes long where its header says 200000"),
        ("mp3", r"ends after \d+ of the 100000 samples"),
    ],
)
def test_a_file_that_was_cut_short_is_said_to_be(tmp_path: Path, suffix: str, sentence: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 100_000), 24_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got, reader = read(path)
    assert 40_000 < got.shape[1] < 60_000
    assert re.match(sentence, reader.shortfall() or "")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_written_files_read_back_and_clipping_is_counted(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    audio = 0.5 * torch.sin(torch.arange(5000) * torch.tensor([[0.05], [0.03]]))
    audio[1, 7], audio[0, 9] = 1.5, -2.0
    with writing_audio(path, 24_000, 2) as writer:
        for piece in audio.split(700, -1):
            writer.write(piece)
    assert (writer.clipped, writer.samples) == (2, 5000)
    got, rate = soundfile.read(path, always_2d=True)
    assert (rate, got.shape) == (24_000, (5000, 2))
    if suffix != "ogg":
        np.testing.assert_allclose(got.T, audio.clamp(-1, 1 - 2**-15).numpy(), rtol=0, atol=2**-16)
        assert soundfile.info(path).subtype == "PCM_16"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"before")

    def write_half() -> None:
        with writing_audio(path, 24_000, 1) as writer:
            writer.write(torch.zeros(1, 100))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("a.mp3", AudioFileError, r"as \.wav, \.flac, \.ogg, not as '\.mp3'"),
        ("a", AudioFileError, "not as ''"),
        ("no/a.wav", OSError, "there is no folder"),
        ("folder.wav", OSError, "not a regular file"),
        ("a.flac", AudioFileError, "FLAC cannot hold a signal of 0 samples"),
    ],
)
def test_targets_that_cannot_be_written_are_refused(
    tmp_path: Path, name: str, error: type[Exception], sentence: str
) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(error, match=sentence), writing_audio(tmp_path / name, 24_000, 1):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["folder.wav"]
