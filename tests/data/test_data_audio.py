"""Reading, resampling and conversion, as facts about signals."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import firwin, kaiser_beta, resample_poly
from torch import Tensor

from data import (
    DataError,
    UnreadableAudio,
    convert_channels,
    level_dbfs,
    limit_peak,
    read_audio,
    read_header,
    read_resampled,
    resample,
    resampled_frames,
    write_wav,
)
from data.corpora import CLIPS


def tone(hertz: float, sample_rate: int, seconds: float = 0.5, channels: int = 1) -> Tensor:
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return (0.5 * torch.sin(2 * math.pi * hertz * time)).float().expand(channels, -1)


def noise(sample_rate: int, seconds: float, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.2 * torch.randn(channels, round(seconds * sample_rate), generator=generator)


def middle(audio: Tensor) -> np.ndarray:
    """Without the tenth at each end, where the filter meets the silence around the audio."""
    samples = audio[0].double().numpy()
    return samples[len(samples) // 10 : -len(samples) // 10]


@pytest.mark.parametrize(
    ("from_rate", "to_rate"),
    [(44100, 24000), (22050, 24000), (48000, 24000), (8000, 48000), (192000, 24000), (128000, 44100), (44101, 24000)],
)
def test_a_tone_keeps_frequency_level_and_phase(from_rate: int, to_rate: int) -> None:
    hertz = 0.9 * min(from_rate, to_rate) / 2
    out = resample(tone(hertz, from_rate), from_rate, to_rate)
    expected = tone(hertz, to_rate)[:, : out.shape[1]]
    error = middle(out[:, : expected.shape[1]]) - middle(expected)
    assert np.abs(error).max() < 0.5 * (10 ** (0.01 / 20) - 1)  # 0.01 dB of its amplitude


@pytest.mark.parametrize("hertz", [12_100.0, 15_000.0, 21_000.0])
def test_tones_above_the_new_nyquist_vanish(hertz: float) -> None:
    out = middle(resample(tone(hertz, 44100), 44100, 24000))
    assert 20 * math.log10(np.abs(out).max() / 0.5) < -80


def test_upsampling_adds_no_images() -> None:
    samples = middle(resample(tone(6000.0, 22050), 22050, 48000))
    spectrum = np.abs(np.fft.rfft(samples * np.blackman(len(samples))))
    frequencies = np.fft.rfftfreq(len(samples), 1 / 48000)
    assert 20 * math.log10(spectrum[frequencies > 11_025].max() / spectrum.max()) < -80


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 24000), (16000, 24000), (96000, 44100), (44101, 24000)])
def test_rates_with_and_without_a_common_divisor_get_the_same_filter(from_rate: int, to_rate: int) -> None:
    audio = noise(from_rate, 0.2, 2)
    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    taps = firwin(2 * 68 * max(up, down) + 1, 0.95 / max(up, down), window=("kaiser", kaiser_beta(90)))
    expected = resample_poly(audio.double().numpy(), up, down, axis=-1, window=taps)
    out = resample(audio, from_rate, to_rate)
    assert out.dtype == torch.float32
    assert np.linalg.norm(out.numpy() - expected) < 1e-3 * np.linalg.norm(expected)


def test_equal_rates_return_the_same_samples() -> None:
    audio = noise(24000, 0.1, 2)
    assert resample(audio, 24000, 24000) is audio


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 147, 148, 1000])
def test_length_is_the_ceiling_of_the_ratio(frames: int) -> None:
    expected = math.ceil(frames * 80 / 147)
    assert resampled_frames(frames, 44100, 24000) == expected
    assert resample(torch.zeros(1, frames), 44100, 24000).shape == (1, expected)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("from_rate", [8000, 22050, 24000, 44100, 48000, 192000])
def test_a_partial_read_is_the_slice_of_the_whole(tmp_path: Path, from_rate: int, format: str) -> None:
    path = tmp_path / f"noise.{format.lower()}"
    soundfile.write(path, noise(from_rate, 0.7, 2).T.numpy(), from_rate, format=format)
    whole = resample(read_audio(path)[0], from_rate, 24000)
    total = whole.shape[1]
    for start, frames in ((0, 1), (0, 2400), (1, 2399), (7001, 4801), (total - 500, 500), (total - 10, 99), (0, total)):
        part = read_resampled(path, 24000, start, frames)
        assert part.shape == (2, min(frames, total - start))
        torch.testing.assert_close(part, whole[:, start : start + frames], atol=1e-5, rtol=0)


def test_reading_from_the_end_on_is_an_error(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(440, 24000), 24000)
    with pytest.raises(UnreadableAudio, match=r"a\.wav: ends before 0\.500 s"):
        read_resampled(tmp_path / "a.wav", 24000, 12000, 100)


def test_channels_converted_before_or_after_resampling_agree(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(44100, 0.2, 8).T.numpy(), 44100, subtype="FLOAT")
    own = read_resampled(tmp_path / "a.wav", 24000, 100, 2000)
    assert own.shape == (8, 2000)
    for channels in (1, 2, 8, 9):
        audio = read_resampled(tmp_path / "a.wav", 24000, 100, 2000, channels)
        torch.testing.assert_close(audio, convert_channels(own, channels), atol=1e-6, rtol=0)


def test_channel_conversion() -> None:
    stereo = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert convert_channels(stereo, 2) is stereo
    assert convert_channels(stereo, 1).tolist() == [[2.0, 4.0]]
    assert convert_channels(stereo[:1], 2).tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert convert_channels(stereo, 3).tolist() == [[1.0, 2.0], [3.0, 6.0], [1.0, 2.0]]
    assert convert_channels(torch.arange(8.0)[:, None], 2).tolist() == [[0.0], [1.0]]


def test_only_peaks_above_one_are_scaled() -> None:
    assert limit_peak(torch.tensor([[0.5, -2.0]])).tolist() == [[0.25, -1.0]]
    quiet = torch.tensor([[0.5, -1.0]])
    assert limit_peak(quiet) is quiet
    assert limit_peak(torch.zeros(2, 0)).shape == (2, 0)


def test_levels() -> None:
    assert level_dbfs(torch.tensor([[1.0, -1.0]])) == 0.0
    assert level_dbfs(tone(100, 24000)) == pytest.approx(-9.03, abs=0.01)  # half amplitude: -6.02, sine: -3.01
    assert level_dbfs(torch.zeros(1, 100)) == level_dbfs(torch.zeros(1, 0)) == -math.inf


def test_written_wav_is_sixteen_bit_and_clipped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.wav"
    write_wav(path, torch.tensor([[0.0, 0.5, 2.0, -2.0], [0.1, -0.1, 0.0, 0.0]]), 44100)
    audio, sample_rate = read_audio(path)
    assert sample_rate == 44100
    assert soundfile.info(path).subtype == "PCM_16"
    expected = torch.tensor([[0.0, 0.5, 1.0, -1.0], [0.1, -0.1, 0.0, 0.0]])
    torch.testing.assert_close(audio, expected, atol=1 / 32767, rtol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_name_the_file(tmp_path: Path, value: float) -> None:
    audio = noise(24000, 0.1, 1)
    audio[0, 1000] = value
    soundfile.write(tmp_path / "bad.wav", audio.T.numpy(), 24000, subtype="FLOAT")
    with pytest.raises(UnreadableAudio, match=r"bad\.wav: holds NaN or infinite samples"):
        read_audio(tmp_path / "bad.wav")
    assert read_audio(tmp_path / "bad.wav", 0, 1000)[0].shape == (1, 1000)


def test_samples_too_large_to_filter_name_the_file(tmp_path: Path) -> None:
    square = np.where(np.arange(9600) // 48 % 2, 3.3e38, -3.3e38).astype(np.float32)  # its overshoot exceeds 3.4e38
    soundfile.write(tmp_path / "huge.wav", square, 96000, subtype="FLOAT")
    with pytest.raises(UnreadableAudio, match=r"huge\.wav: holds samples too large for 32-bit floats to filter"):
        read_resampled(tmp_path / "huge.wav", 24000, 0, 2400)


def test_a_truncated_file_names_itself(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole.flac", noise(24000, 2, 1).T.numpy(), 24000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    assert read_header(tmp_path / "cut.flac").frames == 48000
    with pytest.raises(UnreadableAudio, match=r"cut\.flac: "):
        read_audio(tmp_path / "cut.flac", 40000, 4000)


@pytest.mark.parametrize("content", [b"", b"plain text, no audio\n" * 50, b"RIFF", bytes(range(256)) * 20])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "raw"])
def test_other_files_are_no_audio(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableAudio, match="not audio that libsndfile can read") as caught:
        read_header(path)
    assert caught.value.path == str(path)
    assert isinstance(caught.value, DataError)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAudio, match="no such file"):
        read_audio(tmp_path / "absent.wav")


def test_a_length_that_cannot_be_true_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(24000, 0.1, 1).T.numpy(), 24000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] |= 0x0F  # STREAMINFO: the upper 4 of 36 bits of the frame count
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(UnreadableAudio, match="more than its size can hold"):
        read_header(tmp_path / "a.flac")


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableAudio("a.wav", "no such file")))
    assert (str(error), error.path) == ("a.wav: no such file", "a.wav")


def test_every_embedded_clip_decodes_in_parts() -> None:
    for path in sorted(CLIPS.rglob("*.ogg")) + sorted(CLIPS.rglob("*.flac")):
        whole, rate = read_audio(path)
        assert whole.shape == (read_header(path).channels, read_header(path).frames)
        part, _ = read_audio(path, whole.shape[1] // 3, 5000)
        torch.testing.assert_close(part, whole[:, whole.shape[1] // 3 :][:, :5000], atol=1e-6, rtol=0)
        assert rate >= 24000
