"""Segments: determinism, weights, joined files, and corpora that are partly corrupt."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import AudioReader
from data import DataError, Manifest, SegmentDataset, clips, level_dbfs, scan_folder

RATE = 8000


def write(path: Path, samples: np.ndarray, sample_rate: int = RATE, subtype: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), sample_rate, subtype=subtype)


def noise(seconds: float, seed: int = 0, channels: int = 1, sample_rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * sample_rate), channels))


def by_subfolder(path: str) -> str:
    return path.split("/")[0]


def test_a_segment_depends_on_seed_and_index_alone() -> None:
    corpus = clips()
    first = SegmentDataset(corpus.train, 24000, 1, 0.25, seed=5)
    second = SegmentDataset(corpus.train, 24000, 1, 0.25, seed=5)
    forwards = [first[index] for index in range(6)]
    backwards = [second[index] for index in reversed(range(6))]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert torch.equal(one.audio, other.audio)
        assert (one.audio.shape, one.audio.dtype, one.skipped_files) == ((1, 6000), torch.float32, ())
    other_seed = SegmentDataset(corpus.train, 24000, 1, 0.25, seed=6)
    assert not any(torch.equal(segment.audio, other_seed[index].audio) for index, segment in enumerate(forwards))
    assert len({segment.audio.numpy().tobytes() for segment in forwards}) == 6


@pytest.mark.parametrize(("sample_rate", "channels"), [(16000, 1), (24000, 2), (48000, 2)])
def test_rate_and_channels_are_as_asked(sample_rate: int, channels: int) -> None:
    dataset = SegmentDataset(clips().train, sample_rate, channels, 0.5)
    for index in range(4):
        audio = dataset[index].audio
        assert audio.shape == (channels, sample_rate // 2)
        assert float(audio.abs().max()) <= 1
        assert level_dbfs(audio) > -60


def test_segments_are_pieces_of_their_file(tmp_path: Path) -> None:
    write(tmp_path / "ramp.wav", np.arange(RATE * 2)[:, None] / 2**15, subtype="PCM_16")
    dataset = SegmentDataset(scan_folder(tmp_path), RATE, 1, 0.5)
    starts = []
    for index in range(200):
        samples = (dataset[index].audio[0] * 2**15).round()
        assert torch.equal(samples, samples[0] + torch.arange(RATE // 2))
        starts.append(float(samples[0]))
    assert 0 <= min(starts) < 0.05 * RATE
    assert 1.45 * RATE < max(starts) <= 1.5 * RATE
    assert np.mean(starts) == pytest.approx(0.75 * RATE, rel=0.1)


def test_files_are_drawn_by_duration_and_sources_by_weight(tmp_path: Path) -> None:
    levels = {"a/short.wav": 0.1, "a/long.wav": 0.2, "b/only.wav": 0.3}
    for (name, level), seconds in zip(levels.items(), (1, 3, 4), strict=True):
        write(tmp_path / name, np.full((seconds * RATE, 1), level), subtype="FLOAT")
    manifest = scan_folder(tmp_path, source_of=by_subfolder)

    def shares(weights: dict[str, float] | None) -> dict[str, float]:
        dataset = SegmentDataset(manifest, RATE, 1, 0.1, source_weights=weights)
        drawn = Counter(round(float(dataset[index].audio[0, 0]), 1) for index in range(1000))
        return {name: drawn[level] / 1000 for name, level in levels.items()}

    tolerance = 4 * math.sqrt(0.25 / 1000)  # four standard deviations
    natural = {"a/short.wav": 1 / 8, "a/long.wav": 3 / 8, "b/only.wav": 1 / 2}
    assert shares(None) == pytest.approx(natural, abs=tolerance)
    weighted = {"a/short.wav": 0.2, "a/long.wav": 0.6, "b/only.wav": 0.2}
    assert shares({"a": 8, "b": 2}) == pytest.approx(weighted, abs=tolerance)
    assert shares({"a": 0, "b": 1})["b/only.wav"] == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"speach": 1},
            r"has \['speach'\], the corpus has the sources \['effects', 'music', 'speech'\]",
        ),
        ({"speech": 1, "music": 1}, "the corpus has the sources"),
        ({"speech": -1, "music": 1, "effects": 1}, "finite source_weights"),
        ({"speech": math.nan, "music": 1, "effects": 1}, "finite source_weights"),
        ({"speech": 0, "music": 0, "effects": 0}, "finite source_weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SegmentDataset(clips().train, 24000, 1, 1.0, source_weights=weights)


@pytest.mark.parametrize("arguments", [(0, 1, 1.0, 0), (24000, 0, 1.0, 0), (24000, 1, 1e-6, 0), (24000, 1, 1.0, -1)])
def test_numbers_out_of_range_are_refused(arguments: tuple[int, int, float, int]) -> None:
    with pytest.raises(DataError, match="expected"):
        SegmentDataset(clips().train, *arguments)


def test_an_epoch_holds_the_duration_of_the_corpus() -> None:
    corpus = clips()
    assert len(SegmentDataset(corpus.train, 24000, 1, 0.5)) == round(corpus.train.seconds * 2)


def test_short_words_are_joined_with_their_neighbours_and_fades(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"word{number}.wav", np.full((1000, 1), 0.1 * (number + 1)), subtype="FLOAT")
    dataset = SegmentDataset(scan_folder(tmp_path), RATE, 1, 0.5)
    for index in range(20):
        audio = dataset[index].audio[0]
        runs = [(round(value, 3), len(list(run))) for value, run in itertools.groupby(audio.tolist())]
        words = [value for value, length in runs if length > 100]
        for word, following in itertools.pairwise(words):
            assert following == pytest.approx(word % 0.4 + 0.1)  # the next in the folder, the first after the last
        faded = len(audio) - sum(length for _, length in runs if length > 100)
        assert faded <= 2 * 40 * len(words) + 100  # 5 ms at each end of a word, and a word cut short


def test_one_tiny_file_is_repeated(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "three.wav", np.array([0.5, -0.5, 0.25]), RATE, subtype="FLOAT")
    dataset = SegmentDataset(scan_folder(tmp_path, minimum_seconds=0), RATE, 1, 1.0)
    audio = dataset[0].audio
    assert audio.shape == (1, RATE)
    assert level_dbfs(audio[:, -1000:]) > -60


@pytest.mark.parametrize("seconds", [0.05, 5.0])
def test_silence_is_accepted_if_there_is_nothing_else(tmp_path: Path, seconds: float) -> None:
    write(tmp_path / "silence.wav", np.zeros((round(seconds * RATE), 1)))
    dataset = SegmentDataset(scan_folder(tmp_path, minimum_seconds=0), RATE, 2, 1.0)
    assert torch.equal(dataset[0].audio, torch.zeros(2, RATE))


def test_silence_is_avoided_if_there_is_other_audio(tmp_path: Path) -> None:
    write(tmp_path / "half.wav", np.concatenate([np.zeros((RATE * 10, 1)), noise(10)]))
    dataset = SegmentDataset(scan_folder(tmp_path), RATE, 1, 0.1)
    assert all(level_dbfs(dataset[index].audio) > -60 for index in range(100))


def test_loud_files_are_scaled_to_a_peak_of_one(tmp_path: Path) -> None:
    write(tmp_path / "loud.wav", noise(1) * 14, subtype="FLOAT")
    audio = SegmentDataset(scan_folder(tmp_path), RATE, 1, 0.5)[0].audio
    assert float(audio.abs().max()) == 1.0


@pytest.fixture
def corrupt(tmp_path: Path) -> Path:
    """Twenty files of which two have a valid header and corrupt audio, and four without a valid header."""
    for number in range(18):
        write(tmp_path / f"{number:02d}.flac", noise(2, seed=number))
    content = (tmp_path / "00.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 4])
    nan = noise(2, seed=99)
    nan[::400] = np.nan
    write(tmp_path / "nan.wav", nan, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("renamed")
    (tmp_path / "zero.flac").touch()
    (tmp_path / "random.ogg").write_bytes(np.random.default_rng(0).bytes(9000))
    soundfile.write(tmp_path / "header.wav", np.zeros(0), RATE)
    return tmp_path


def test_damaged_files_are_redrawn_and_reported(corrupt: Path) -> None:
    manifest = scan_folder(corrupt)
    assert {path for path, _ in manifest.skipped_files} == {"text.wav", "zero.flac", "random.ogg", "header.wav"}
    dataset = SegmentDataset(manifest, RATE, 1, 0.5)
    segments = [dataset[index] for index in range(200)]
    assert all(torch.isfinite(segment.audio).all() for segment in segments)
    skipped = {path for segment in segments for path in segment.skipped_files}
    assert skipped == {str(corrupt / "cut.flac"), str(corrupt / "nan.wav")}
    again = [dataset[index] for index in range(200)]
    assert all(
        torch.equal(a.audio, b.audio) and a.skipped_files == b.skipped_files
        for a, b in zip(segments, again, strict=True)
    )


def test_short_files_skip_damaged_neighbours(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.wav", noise(0.3, seed=number))
    (tmp_path / "10.wav").symlink_to(tmp_path / "9.wav")
    manifest = scan_folder(tmp_path)
    (tmp_path / "10.wav").unlink()
    dataset = SegmentDataset(manifest, RATE, 1, 0.5)
    segments = [dataset[index] for index in range(50)]
    assert {path for segment in segments for path in segment.skipped_files} == {str(tmp_path / "10.wav")}


def test_a_corpus_damaged_throughout_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "gone.wav", noise(1))
    manifest = scan_folder(tmp_path)
    (tmp_path / "gone.wav").unlink()
    with pytest.raises(DataError, match=r"100 of 100 reads for segment 7 failed.*gone\.wav: no such file"):
        SegmentDataset(manifest, RATE, 1, 0.5)[7]


def test_a_file_that_shrank_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(2))
    write(tmp_path / "b.wav", noise(2, seed=1))
    manifest = scan_folder(tmp_path)
    write(tmp_path / "b.wav", noise(0.1))
    dataset = SegmentDataset(manifest, RATE, 1, 0.5)
    assert {path for index in range(30) for path in dataset[index].skipped_files} == {str(tmp_path / "b.wav")}


def test_an_empty_manifest_is_an_error() -> None:
    empty = Manifest(Path("nowhere"), [])
    with pytest.raises(DataError, match="no files"):
        SegmentDataset(empty, RATE, 1, 1.0)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 44100, 96000, 192000])
def test_any_rate_and_eight_channels(tmp_path: Path, sample_rate: int) -> None:
    write(tmp_path / "eight.wav", noise(0.5, channels=8, sample_rate=sample_rate), sample_rate)
    for channels in (1, 2):
        audio = SegmentDataset(scan_folder(tmp_path), 24000, channels, 0.25)[0].audio
        assert audio.shape == (channels, 6000)
        assert level_dbfs(audio) > -40


def test_surround_is_mixed_to_stereo_and_mono_by_the_rule_of_itu(tmp_path: Path) -> None:
    """Weights of ITU-R BS.775-3, divided by their sum; low-frequency effects are left out."""
    levels = np.array([0.5, -0.25, 0.125, 0.9, 0.0625, 0.03125])  # FL FR FC LFE BL BR
    write(tmp_path / "surround.wav", np.tile(levels, (RATE, 1)), subtype="FLOAT")
    half = math.sqrt(0.5)
    left = (0.5 + half * 0.125 + half * 0.0625) / (1 + 2 * half)
    right = (-0.25 + half * 0.125 + half * 0.03125) / (1 + 2 * half)
    for channels, expected in ((2, [left, right]), (1, [(left + right) / 2])):
        audio = SegmentDataset(scan_folder(tmp_path), RATE, channels, 0.5)[0].audio
        np.testing.assert_allclose(audio[:, 10], expected, rtol=0, atol=1e-7)


def test_a_segment_is_a_part_of_what_the_commands_read(tmp_path: Path) -> None:
    """Training and coding get the same samples of a stereo file at another rate."""
    write(tmp_path / "a.wav", noise(3, channels=2, sample_rate=44100), 44100, subtype="FLOAT")
    segment = SegmentDataset(scan_folder(tmp_path), 24000, 1, 0.5)[0].audio[0].numpy()
    whole = torch.cat(list(AudioReader(tmp_path / "a.wav", 24000, 1).blocks()), -1)[0].numpy()
    matches = np.lib.stride_tricks.sliding_window_view(whole, len(segment)) @ segment
    start = int(matches.argmax())
    np.testing.assert_allclose(whole[start : start + len(segment)], segment, rtol=0, atol=1e-6)
