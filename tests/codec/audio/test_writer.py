"""Audio files that are written."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import AudioFileError, write_audio, writing_audio


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


def test_a_whole_signal_is_written_at_once_and_its_folder_is_created(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.wav"
    write_audio(path, torch.tensor([[0.0, 0.5, 2.0, -2.0], [0.1, -0.1, 0.0, 0.0]], requires_grad=True), 44_100)
    audio, sample_rate = soundfile.read(path)
    assert sample_rate == 44_100
    assert soundfile.info(path).subtype == "PCM_16"
    np.testing.assert_allclose(audio.T, [[0.0, 0.5, 1.0, -1.0], [0.1, -0.1, 0.0, 0.0]], rtol=0, atol=2**-15)


def test_a_failed_write_leaves_the_previous_file(tmp_path: Path) -> None:
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


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libsndfile only says "System error" when a write fails."""

    def fail(*_: object) -> None:
        raise soundfile.SoundFileError("System error.")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    for free, reason in ((0, "No space left on device"), (1, "System error")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(AudioFileError, match=f"a.wav: cannot be written .{reason}"):
            write_audio(tmp_path / "a.wav", torch.zeros(1, 100), 24_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a.mp3", AudioFileError, r"a\.mp3: .*\.wav, \.flac, \.ogg, not as \.mp3"),
        ("a", AudioFileError, "the name has no suffix"),
        ("no/a.wav", OSError, "there is no folder"),
        ("folder.wav", OSError, "not a regular file"),
        ("a.flac", AudioFileError, "0 samples, write .wav"),
    ],
)
def test_targets_that_cannot_be_written_are_refused(
    tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(error, match=message), writing_audio(tmp_path / name, 24_000, 1):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["folder.wav"]
