"""Held-out clips: the same ones every time, spread over the files."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import DataError, Entry, Manifest, clips, held_out_clips, level_dbfs, scan_folder

RATE = 8000


def write(path: Path, samples: np.ndarray, sample_rate: int = RATE, subtype: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), sample_rate, subtype=subtype)


def noise(seconds: float, seed: int = 0, channels: int = 1, sample_rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * sample_rate), channels))


def test_clips_are_always_the_same_and_spread() -> None:
    manifest = clips().held_out
    found = held_out_clips(manifest, 24000, 1, 1.0, 3)
    assert Counter(clip.group for clip in found) == {"effects": 3, "music": 3, "speech": 3}
    assert len({clip.name for clip in found}) == 9
    assert all(clip.audio.shape == (1, 24000) and level_dbfs(clip.audio) > -45 for clip in found)
    assert [clip.name for clip in found] == sorted(clip.name for clip in found)
    assert found[-1].name.startswith("speech-02-new_world_fr_")
    again = held_out_clips(manifest, 24000, 1, 1.0, 3)
    assert all(torch.equal(one.audio, other.audio) for one, other in zip(found, again, strict=True))


def test_clips_avoid_silence_and_damage(tmp_path: Path) -> None:
    write(tmp_path / "a b/ü.wav", np.concatenate([np.zeros((RATE * 2, 1)), noise(4)]))
    manifest = scan_folder(tmp_path)
    manifest.entries.append(Entry("gone.wav", RATE, 1, RATE * 6, 0))
    found = held_out_clips(manifest, RATE, 1, 0.5, 2)
    assert [clip.name for clip in found] == ["audio-00"]  # the second part is the corrupt file
    assert level_dbfs(found[0].audio) > -45


@pytest.mark.parametrize("arguments", [(0.0, 1, 0), (1.0, 0, 0), (1.0, 1, -1)])
def test_numbers_out_of_range_are_refused(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(DataError, match="expected clips"):
        held_out_clips(clips().held_out, 24000, 1, *arguments)


def test_without_a_usable_clip_there_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "gone.wav", noise(1))
    manifest = scan_folder(tmp_path)
    (tmp_path / "gone.wav").unlink()
    with pytest.raises(DataError, match="every held-out file"):
        held_out_clips(manifest, RATE, 1, 0.5, 2)
    assert [reason for _, reason in manifest.skipped_files] == ["no such file"]
    with pytest.raises(DataError, match="nowhere"):
        held_out_clips(Manifest(Path("nowhere"), []), RATE, 1, 1.0, 1)
