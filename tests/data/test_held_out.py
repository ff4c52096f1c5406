"""Held-out clips: the same ones every time, spread over the files."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import DataError, Entry, HeldOutClip, Manifest, clips, held_out_clips, level_dbfs, scan_folder

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


def held_out_of(folder: Path, channels: int = 1, **settings: float) -> list[HeldOutClip]:
    return held_out_clips(
        scan_folder(folder, source_of=lambda path: path.split("/")[0]), RATE, channels, 0.5, 2, **settings
    )


def test_quiet_files_give_quiet_clips_rather_than_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "quiet/a.wav", noise(4) * 0.01, subtype="PCM_24")  # -51 dBFS
    found = held_out_of(tmp_path)
    assert [clip.name for clip in found] == ["quiet-00-a", "quiet-01-a"]
    assert all(level_dbfs(clip.audio) == pytest.approx(-50.8, abs=1) for clip in found)
    assert len(caplog.messages) == 1
    assert re.search(r"^quiet: .* quiet, at most -5[01] dBFS, .*data\.held_out\.minimum_dbfs=-45$", caplog.messages[0])
    caplog.clear()
    assert len(held_out_of(tmp_path, minimum_dbfs=-60)) == 2
    assert caplog.messages == []


def test_fewer_clips_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "half/a.wav", np.concatenate([noise(4), noise(4) * 0.001]))
    write(tmp_path / "empty/a.wav", np.zeros((RATE * 4, 1)))
    assert [clip.group for clip in held_out_of(tmp_path)] == ["half"]
    assert caplog.messages[0] == "empty: no held-out clip, every position that was tried is silent"
    assert caplog.messages[1].startswith("half: 1 of 2 held-out clips")


def test_channels_that_cancel_are_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = noise(4)
    write(tmp_path / "wide/a.wav", np.concatenate([left, -left], axis=1))
    with pytest.raises(DataError, match=r"is lost in the mono mix, because its channels cancel each other \(R = -L\)"):
        held_out_of(tmp_path)
    assert len(held_out_of(tmp_path, channels=2)) == 2
    caplog.clear()
    write(tmp_path / "plain/b.wav", noise(4))
    assert [clip.group for clip in held_out_of(tmp_path)] == ["plain", "plain"]
    assert "wide: no held-out clip" in caplog.text
    assert "R = -L" in caplog.text


def test_names_of_clips_are_short_unique_and_plain(tmp_path: Path) -> None:
    for name in ("日本/" + "x" * 236 + ".wav", "한국/" + "x" * 236 + ".wav", "a b/" + os.fsdecode(b"caf\xe9.wav")):
        write(tmp_path / "new.wav", noise(2))
        (tmp_path / name).parent.mkdir()
        (tmp_path / "new.wav").rename(tmp_path / name)
    names = [clip.name for clip in held_out_of(tmp_path)]
    assert len(set(names)) == 6
    assert names[:2] == ["a-b-00-caf", "a-b-01-caf"]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)


def test_whole_sentences_of_the_repository() -> None:
    manifest = clips().held_out
    found = held_out_clips(manifest, 24000, 1, {"speech": None, "music": 1.0, "effects": 0.5}, 8)
    assert Counter(clip.group for clip in found) == {"effects": 8, "music": 8, "speech": 5}
    sentences = [clip for clip in found if clip.group == "speech"]
    expected = [entry.seconds for entry in manifest.of_source("speech").entries]
    assert [clip.audio.shape[-1] / 24000 for clip in sentences] == pytest.approx(expected, abs=1e-3)
    assert [clip.name for clip in sentences] == [f"speech-0{i}-new_world_fr_{i}" for i in range(5)]
    short = held_out_clips(manifest.of_source("speech"), 24000, 1, None, 2, max_seconds=0.75)
    assert [clip.audio.shape for clip in short] == [(1, 18000)] * 2


def whole_files(manifest: Manifest, count: int) -> list[str]:
    """Stems of the chosen files."""
    return [clip.name.rpartition("-")[2] for clip in held_out_clips(manifest, RATE, 1, None, count)]


def test_whole_files_are_spread_over_speakers(tmp_path: Path) -> None:
    """Each speaker has a file before one has two, and two files of a speaker are not neighbours."""
    for speaker, count in (("a", 8), ("b", 2), ("c", 1)):
        for number in range(count):
            write(tmp_path / f"{speaker}/{speaker}{number}.wav", noise(2.5, number))
    manifest = scan_folder(tmp_path)
    assert whole_files(manifest, 1) == ["a0"]
    assert whole_files(manifest, 2) == ["a0", "b0"]
    assert whole_files(manifest, 3) == ["a0", "b0", "c0"]
    assert whole_files(manifest, 7) == ["a0", "a2", "a4", "a6", "b0", "b1", "c0"]
    assert len(whole_files(manifest, 50)) == 11
    # The speakers of a manifest take precedence over the folders.
    named = [replace(entry, further={"speaker": int(entry.path[3]) % 2}) for entry in manifest.entries]
    assert whole_files(replace(manifest, entries=named), 2) == ["a0", "a1"]


def test_whole_files_are_sentences_if_there_are_any(tmp_path: Path) -> None:
    for name, seconds in (("0.wav", 0.3), ("1.wav", 13.0), ("2.wav", 2.5), ("3.wav", 0.4), ("4.wav", 13.0)):
        write(tmp_path / "a" / name, noise(seconds))
    manifest = scan_folder(tmp_path)
    assert whole_files(manifest, 1) == ["2"]
    assert whole_files(manifest, 2) == ["1", "2"]  # of the files 0 and 1, and of the others
    long, _ = held_out_clips(manifest, RATE, 1, None, 2)
    assert long.audio.shape == (1, 12 * RATE)
    write(tmp_path / "a/2.wav", noise(2.5) * 0.001)
    assert whole_files(scan_folder(tmp_path), 1) == ["1"]  # the sentence is too quiet


def test_every_source_needs_a_length(tmp_path: Path) -> None:
    write(tmp_path / "2020/a.wav", noise(3))
    manifest = scan_folder(tmp_path, source_of=lambda path: path.split("/")[0])
    (clip,) = held_out_clips(manifest, RATE, 1, {2020: 0.5, "unused": None}, 1)  # type: ignore[dict-item]
    assert clip.audio.shape == (1, RATE // 2)
    with pytest.raises(DataError, match=r"seconds has no length for the source 2020: add 2020: 3\.0, or null"):
        held_out_clips(manifest, RATE, 1, {"speech": 3.0}, 1)
    for seconds, most in ((-1.0, 12.0), (None, 0.0), ({"2020": 0.0}, 12.0)):
        with pytest.raises(DataError, match="expected clips of more than 0 s"):
            held_out_clips(manifest, RATE, 1, seconds, 1, max_seconds=most)


@pytest.mark.parametrize("arguments", [(0.0, 1, 0), (1.0, 0, 0), (1.0, 1, -1)])
def test_numbers_out_of_range_are_refused(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(DataError, match="expected clips"):
        held_out_clips(clips().held_out, 24000, 1, *arguments)


def test_without_a_usable_clip_there_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "gone.wav", noise(1))
    manifest = scan_folder(tmp_path)
    (tmp_path / "gone.wav").unlink()
    with pytest.raises(DataError, match=r"every position .* cannot be decoded: hold out others$"):
        held_out_clips(manifest, RATE, 1, 0.5, 2)
    assert [reason for _, reason in manifest.skipped_files] == ["no such file"]
    with pytest.raises(DataError, match="nowhere"):
        held_out_clips(Manifest(Path("nowhere"), []), RATE, 1, 1.0, 1)
