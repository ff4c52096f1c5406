"""Corrupt files are skipped and counted. Audio that cannot be trained on gives one clear line and leaves no folder."""

from pathlib import Path

import numpy as np
import pytest

from bad_input import (
    CLIPS,
    RATE,
    assert_trained,
    folder_of,
    from_folder,
    noise,
    refused,
    skipped_files,
    train,
    write,
)
from scripts.errors import describe_error

pytestmark = pytest.mark.usefixtures("no_report")


def test_no_such_folder(tmp_path: Path) -> None:
    line = refused(tmp_path, *from_folder(tmp_path / "audoi"))
    assert line == f"{tmp_path}/audoi: expected a folder of audio, there is no such folder (in data.corpus)"


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    assert "the folder is empty" in refused(tmp_path, *from_folder(tmp_path / "audio"))


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(3):
        (tmp_path / "audio" / f"{number}.txt").write_text("not audio")
    assert "no audio among its files (wav, flac" in refused(tmp_path, *from_folder(tmp_path / "audio"))


def test_text_files_named_wav(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(3):
        (tmp_path / "audio" / f"{number}.wav").write_text("not audio")
    line = refused(tmp_path, *from_folder(tmp_path / "audio"))
    assert "none of its 3 audio files can be used: 0.wav and 2 more: not audio that libsndfile can read" in line


def test_a_single_file_cannot_be_split(tmp_path: Path) -> None:
    line = refused(tmp_path, *from_folder(folder_of(tmp_path / "audio", files=1)))
    assert "at least two files of a source to hold one out, got 1" in line


def test_a_tenth_of_the_files_is_damaged(tmp_path: Path) -> None:
    """One has an invalid header. The other is truncated: what decodes of it is used."""
    audio = folder_of(tmp_path / "audio", files=18)
    (audio / "18.wav").write_bytes(b"RIFF" + bytes(1000))
    write(audio / "19.flac", noise(60))
    whole = (audio / "19.flac").read_bytes()
    (audio / "19.flac").write_bytes(whole[: len(whole) // 50])
    folder = train(tmp_path, *from_folder(audio), "data.batch_size=8")
    assert_trained(folder)
    assert set(skipped_files(folder)) == {"18.wav"}
    assert "skipped file 1: " in (folder / "log.txt").read_text()


def test_a_file_of_three_samples_among_others(tmp_path: Path) -> None:
    audio = folder_of(tmp_path / "audio")
    write(audio / "short.wav", noise(3 / RATE))
    folder = train(tmp_path, *from_folder(audio))
    assert_trained(folder)
    assert skipped_files(folder) == {"short.wav": "3 frames, 0.000 s, is below 0.1 s"}


def test_nothing_but_files_of_three_samples(tmp_path: Path) -> None:
    audio = folder_of(tmp_path / "audio", seconds=3 / RATE)
    line = refused(tmp_path, *from_folder(audio))
    assert "none of its 4 audio files can be used: 00.wav and 3 more: 3 frames, 0.000 s, is below 0.1 s" in line
    assert_trained(train(tmp_path, *from_folder(audio), "data.corpus.minimum_seconds=0"))


def test_a_folder_of_silence(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "audio" / f"{number}.wav", np.zeros((RATE, 1), np.float32))
    assert "the held-out files is silent: hold out others" in refused(tmp_path, *from_folder(tmp_path / "audio"))


@pytest.mark.parametrize("settings", [("codec=starter_seanet",), ("codec=encodec_48khz", "trainer.init=random")])
def test_training_on_silence_alone_stays_finite(settings: tuple[str, ...], tmp_path: Path) -> None:
    """encodec_48khz divides by the RMS of a segment, and silence has no principal components for trainer.init=pca."""
    write(tmp_path / "audio" / "silence.wav", np.zeros((RATE, 1), np.float32))
    corpus = (f"data.corpus.train={tmp_path / 'audio'}", f"data.corpus.held_out={CLIPS / 'held_out.jsonl'}")
    assert_trained(train(tmp_path, *settings, "data=manifest", *corpus))


def test_nan_samples_in_one_file(tmp_path: Path) -> None:
    audio = folder_of(tmp_path / "audio")
    samples = noise(20)
    samples[::100] = np.nan
    write(audio / "nan.wav", samples, subtype="FLOAT")
    folder = train(tmp_path, *from_folder(audio))
    assert_trained(folder)
    assert set(skipped_files(folder)) == {"nan.wav"}


def test_nan_samples_everywhere(tmp_path: Path) -> None:
    write(tmp_path / "audio" / "nan.wav", np.full((RATE, 1), np.nan, np.float32), subtype="FLOAT")
    held_out = f"data.corpus.held_out={CLIPS / 'held_out.jsonl'}"
    with pytest.raises(ValueError, match="most of the corpus is corrupt") as caught:
        train(tmp_path, "data=manifest", f"data.corpus.train={tmp_path / 'audio'}", held_out)
    assert "nan.wav: has a sample that is NaN or infinite, the first at frame" in describe_error(caught.value)
    assert "Traceback" in (tmp_path / "bad" / "log.txt").read_text()


def test_eight_channels_into_a_mono_codec(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "audio" / f"{number}.wav", noise(0.5, channels=8, seed=number))
    assert_trained(train(tmp_path, *from_folder(tmp_path / "audio")))
