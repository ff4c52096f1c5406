"""Corpora: the embedded clips, a user's folders and manifests, and the packages of the starter corpus."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.audio import AudioFile
from data import (
    Corpus,
    DataError,
    Manifest,
    SegmentDataset,
    clips,
    folder,
    held_out_clips,
    level_dbfs,
    manifests,
    scan_folder,
    starter,
    voices,
)
from data import corpora as module
from data.corpora import CLIPS
from data.packages import Package

WEIGHTS = {"speech": 5.0, "music": 4.0, "effects": 1.0}


def write(path: Path, seconds: float = 1.0, sample_rate: int = 24000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(1).uniform(-0.5, 0.5, round(seconds * sample_rate)), sample_rate)


def paths(corpus: Corpus) -> tuple[set[str], set[str]]:
    return {entry.path for entry in corpus.train.entries}, {entry.path for entry in corpus.held_out.entries}


def test_clips_are_what_their_manifests_say() -> None:
    corpus = clips(WEIGHTS)
    assert corpus.train.sources == pytest.approx({"effects": 26.2, "music": 80.0, "speech": 31.0}, abs=0.1)
    assert corpus.held_out.sources == pytest.approx({"effects": 11.3, "music": 24.0, "speech": 12.8}, abs=0.1)
    for manifest in (corpus.train, corpus.held_out):
        for entry in manifest.entries:
            with AudioFile(manifest.path(entry)) as file:
                audio = file.read_frames(0, file.frames)
            assert (file.sample_rate, *audio.shape) == (entry.sample_rate, entry.channels, entry.frames)
            assert entry.bytes == Path(manifest.path(entry)).stat().st_size < 2**20
            assert entry.sample_rate >= 24000
            assert level_dbfs(audio) > -45
    assert not {entry.path.split("/")[-1] for entry in corpus.train.entries} & {
        entry.path.split("/")[-1] for entry in corpus.held_out.entries
    }


def test_every_clip_is_listed_with_its_licence_and_nothing_else_is() -> None:
    present = {str(path.relative_to(CLIPS)) for path in CLIPS.rglob("*.*") if path.suffix in (".ogg", ".flac", ".wav")}
    corpus = clips()
    assert present == paths(corpus)[0] | paths(corpus)[1]
    licences = (CLIPS / "LICENSES.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`((?:train|held_out)/[^`]+)`", licences)) == present
    for entry in corpus.train.entries + corpus.held_out.entries:
        section = next(part for part in licences.split("\n## ") if entry.path in part)
        assert entry.licence in section.splitlines()[0]
        assert entry.package in section
    assert sum((CLIPS / path).stat().st_size for path in present) < 5e6


def test_clips_are_enough_for_weights() -> None:
    corpus = clips(WEIGHTS)
    dataset = SegmentDataset(corpus.train, 24000, 1, 0.5, source_weights=corpus.source_weights)
    assert {dataset[index].source for index in range(30)} == set(WEIGHTS)


def test_held_out_files_depend_on_their_own_paths(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path / f"{number}.wav", 0.1, 8000)
    train, held_out = paths(folder(str(tmp_path), held_out_fraction=0.2))
    assert not train & held_out
    assert len(train | held_out) == 60
    assert 4 <= len(held_out) <= 22
    for number in range(60, 80):
        write(tmp_path / f"{number}.wav", 0.1, 8000)
    _, more = paths(folder(str(tmp_path), held_out_fraction=0.2))
    assert held_out == {path for path in more if int(path[:-4]) < 60}


def test_every_source_has_files_on_both_sides(tmp_path: Path) -> None:
    for name in ("speech/a.wav", "speech/b.wav", "music/deep/a.wav", "music/b.wav", "music/c.wav", "noise/only.wav"):
        write(tmp_path / name)
    for fraction in (1e-9, 1 - 1e-9):
        corpus = folder(str(tmp_path), fraction, source_weights={"speech": 1, "music": 1, "noise": 1})
        assert set(corpus.train.sources) == {"speech", "music", "noise"}
        assert set(corpus.held_out.sources) == {"speech", "music"}
    assert folder(str(tmp_path)).train.sources.keys() == {"audio"}
    corpus = folder(str(tmp_path), source_weights={"speech": 1, "musik": 1})
    with pytest.raises(
        DataError, match=r"has \['musik', 'speech'\], the corpus has the sources \['music', 'noise', 'speech'\]"
    ):
        SegmentDataset(corpus.train, 24000, 1, 0.5, source_weights=corpus.source_weights)


def test_one_file_cannot_be_divided(tmp_path: Path) -> None:
    write(tmp_path / "only.wav")
    with pytest.raises(DataError, match="at least two files of a source to hold one out, got 1"):
        folder(str(tmp_path))
    with pytest.raises(DataError, match="held_out_fraction between 0 and 1, got 0"):
        folder(str(tmp_path), held_out_fraction=0)


def test_skipped_files_are_listed_once(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write(tmp_path / name)
    (tmp_path / "c.wav").touch()
    corpus = folder(str(tmp_path))
    assert [path for path, _ in corpus.train.skipped_files] == ["c.wav"]
    assert corpus.held_out.skipped_files == []


def test_a_manifest_is_accepted_in_place_of_a_folder(tmp_path: Path) -> None:
    for name in ("audio/a.wav", "audio/b.wav", "other/c.wav"):
        write(tmp_path / name)
    scan_folder(tmp_path / "audio").save(tmp_path / "all.jsonl")
    by_manifest = folder(str(tmp_path / "all.jsonl"), held_out_fraction=0.5)
    assert set.union(*paths(by_manifest)) == {"audio/a.wav", "audio/b.wav"}
    corpus = manifests(str(tmp_path / "all.jsonl"), str(tmp_path / "other"))
    assert paths(corpus) == ({"audio/a.wav", "audio/b.wav"}, {"c.wav"})
    corpus = manifests(str(tmp_path), str(tmp_path / "other"), source_weights={"audio": 1, "other": 2})
    assert set(corpus.train.sources) == {"audio", "other"}
    (tmp_path / "all.jsonl").rename(tmp_path / "manifest.json")
    corpus = manifests(str(tmp_path / "manifest.json"), str(tmp_path / "other"))
    assert paths(corpus) == ({"audio/a.wav", "audio/b.wav"}, {"c.wav"})
    with pytest.raises(DataError, match=r"a\.wav: expected a folder of audio or a manifest, this is one audio file"):
        folder(str(tmp_path / "audio/a.wav"))


def test_the_held_out_speech_of_the_starter_has_whole_sentences(tmp_path: Path) -> None:
    """Also with the manifest of an earlier fetch, in which single words were the source `speech`."""
    for package in ("klettres-data", "ktuberling-data"):
        write(tmp_path / package / "a.wav")
        entry = replace(scan_folder(tmp_path / package).entries[0], path="a.wav", source="speech", package=package)
        name = "starter-train.jsonl" if package == "klettres-data" else "starter-held-out.jsonl"
        Manifest(tmp_path, [replace(entry, path=f"{package}/a.wav")]).save(tmp_path / name)
    corpus = starter(str(tmp_path), source_weights={"speech": 1, "music": 1, "effects": 1})
    assert corpus.source_weights == {"speech": 1}
    assert set(corpus.held_out.sources) == {"speech", "words"}
    found = held_out_clips(corpus.held_out, 24000, 1, {"speech": None, "words": 0.5}, 8)
    assert Counter(clip.group for clip in found) == {"speech": 5, "words": 8}
    assert all(clip.audio.shape[-1] > 2 * 24000 for clip in found if clip.group == "speech")


def test_names_of_sources_are_text(tmp_path: Path) -> None:
    """YAML reads a folder's name such as 2020 as a number; a name that is not UTF-8 is written as it is printed."""
    latin_1 = os.fsdecode(b"caf\xe9")
    for name in ("2020/a.wav", "2020/b.wav", "music/a.wav", "music/b.wav", f"{latin_1}/a.wav", f"{latin_1}/b.wav"):
        write(tmp_path / "new.wav")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "new.wav").rename(tmp_path / name)
    weights: dict[Any, float] = {2020: 1, "music": 2, "caf\\xe9": 1}
    corpus = folder(str(tmp_path), source_weights=weights)
    dataset = SegmentDataset(corpus.train, 24000, 1, 0.5, source_weights=corpus.source_weights)
    assert dataset.sources == ["2020", "caf\\xe9", "music"]
    assert {dataset[index].source for index in range(30)} == set(dataset.sources)
    with pytest.raises(DataError, match=r"has \['2021', 'music'\], the corpus has the sources"):
        SegmentDataset(corpus.train, 24000, 1, 0.5, source_weights={2021: 1, "music": 1})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="finite source_weights"):
        SegmentDataset(corpus.train, 24000, 1, 0.5, source_weights=weights | {2020: "1"})


@pytest.mark.parametrize(
    "name", [b"h\xc3\xb6rspiel (1) = a, b #2 & 'c' \"d\"", "日本".encode(), b"caf\xe9", b"[x]{y}$z\\"]
)
def test_any_name_of_a_folder_is_trained_on(tmp_path: Path, name: bytes) -> None:
    write(tmp_path / "plain/a.wav")
    write(tmp_path / "plain/b.wav")
    root = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "plain").rename(root)
    corpus = folder(root)
    dataset = SegmentDataset(corpus.train, 24000, 1, 0.5)
    assert level_dbfs(dataset[0].audio) > -20
    assert len(held_out_clips(corpus.held_out, 24000, 1, 0.5, 2)) == 2
    with pytest.raises(DataError) as caught:
        folder(os.path.join(root, "absent"))
    assert str(caught.value).isprintable()


def test_the_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "audio/a.wav")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths(manifests("~/audio", "~/audio")) == ({"a.wav"}, {"a.wav"})
    monkeypatch.setenv("PATH", str(tmp_path))
    starter("~/starter")  # without apt it fails, after it has made the folder
    assert (tmp_path / "starter").is_dir()


def test_without_apt_the_clips_are_used_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    corpus = starter(str(tmp_path / "starter"), source_weights=WEIGHTS)
    assert corpus.name == "clips"
    assert len(caplog.messages) == 1
    assert re.match(r"data=starter is not available \(.*apt-get.*data/clips", caplog.messages[0])
    SegmentDataset(corpus.train, 24000, 1, 1.0, source_weights=corpus.source_weights)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with other packages in place of the real ones, as if `fetch` had unpacked them."""
    root = tmp_path / "starter"

    def packages(source: str, names: tuple[str, ...]) -> tuple[Package, ...]:
        return tuple(Package(name, "1", "0", source, "free", ("*",)) for name in names)

    monkeypatch.setattr(module, "_TRAIN", packages("speech", ("words",)) + packages("effects", ("hits",)))
    monkeypatch.setattr(module, "_HELD_OUT", packages("speech", ("others",)))
    monkeypatch.setattr(module, "fetch", lambda wanted, root: [p for p in wanted if (root / p.name).is_dir()])
    write(root / "words/usr/a.wav")
    write(root / "words/usr/low.wav", 1.0, 16000)
    write(root / "words/usr/short.wav", 0.3)
    write(root / "others/b.wav")
    return root


def test_packages_become_two_manifests(shelf: Path) -> None:
    write(shelf / "hits/c.wav", 2.0)
    corpus = starter(str(shelf), source_weights={"speech": 2, "effects": 1})
    assert (corpus.name, corpus.source_weights) == ("starter", {"speech": 2, "effects": 1})
    sentences = {str(path) for path in (CLIPS / "held_out" / "speech").iterdir()}
    assert paths(corpus) == ({"hits/c.wav", "words/usr/a.wav"}, {"others/b.wav", *sentences})
    assert {(entry.source, entry.package, entry.licence) for entry in corpus.train.entries} == {
        ("effects", "hits", "free"),
        ("speech", "words", "free"),
    }
    assert corpus.train.skipped_files == [("words/usr/short.wav", "7200 frames, 0.300 s, is below 0.5 s")]
    assert sorted(path.name for path in shelf.glob("*.jsonl")) == ["starter-held-out.jsonl", "starter-train.jsonl"]
    again = starter(str(shelf), minimum_sample_rate=8000)
    assert paths(again)[0] == {"hits/c.wav", "words/usr/a.wav", "words/usr/low.wav"}


def test_a_source_that_could_not_be_fetched_loses_its_weight(shelf: Path) -> None:
    assert starter(str(shelf), source_weights={"speech": 2, "effects": 1}).source_weights == {"speech": 2}
    misspelt = starter(str(shelf), source_weights={"speach": 2, "effects": 1})
    assert misspelt.source_weights == {"speach": 2}  # for SegmentDataset to refuse


def test_no_package_at_all_means_the_clips(shelf: Path, caplog: pytest.LogCaptureFixture) -> None:
    (shelf / "others").rename(shelf / "elsewhere")
    assert starter(str(shelf)).name == "clips"
    assert "none of its packages could be fetched" in caplog.text
    (shelf / "elsewhere").rename(shelf / "others")
    assert starter(str(shelf)).name == "starter"
    (shelf / "others").rename(shelf / "elsewhere")  # audio that a manifest lists is gone, and fetching it again fails
    assert starter(str(shelf)).name == "clips"


def test_the_tables_of_packages_are_plausible() -> None:
    tables = (*module._TRAIN, *module._HELD_OUT, *module._LARGE)
    assert len({package.name for package in tables}) == len(tables) == 9
    assert all(re.fullmatch("[0-9a-f]{64}", package.sha256) for package in tables)
    assert {package.source for package in (*module._TRAIN, *module._LARGE)} == set(WEIGHTS)


def test_speakers_are_held_out_whole(shelf: Path, tmp_path: Path) -> None:
    for name in ("anna/a.wav", "anna/deep/b.wav", "bert/a.wav", "cleo/a.wav", "loose.wav"):
        write(tmp_path / "voices" / name)
    write(tmp_path / "voices/bert/low.wav", 1.0, 16000)
    root = str(tmp_path / "voices")
    packages = starter(str(shelf), source_weights={"speech": 2, "effects": 1})
    corpus = voices(root, str(shelf), source_weights={"speech": 2, "effects": 1, "speech_voices": 3})
    trained = {f"{root}/anna/a.wav", f"{root}/anna/deep/b.wav", f"{root}/bert/a.wav"}
    assert paths(corpus) == (paths(packages)[0] | trained, paths(packages)[1] | {f"{root}/cleo/a.wav"})
    assert corpus.source_weights == {"speech": 2, "speech_voices": 3}  # `hits` is not there
    assert corpus.train.sources["speech_voices"] == pytest.approx(3, abs=0.01)
    corpus = voices(root, str(shelf), held_out_speakers=["anna", "cleo"])
    assert paths(corpus)[0] - paths(packages)[0] == {f"{root}/bert/a.wav"}
    dataset = SegmentDataset(corpus.train, 24000, 1, 0.5)
    assert {dataset[index].source for index in range(20)} == {"speech", "speech_voices"}
    for held in (["dora"], [], ["anna", "bert", "cleo"]):
        with pytest.raises(DataError, match="expected some of anna, bert, cleo as held_out_speakers, but not all"):
            voices(root, str(shelf), held_out_speakers=held)
    with pytest.raises(DataError, match="each of at least two speakers, got 0"):
        voices(f"{root}/anna/deep", str(shelf))


def test_speakers_without_packages_are_trained_on_with_the_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("anna/a.wav", "bert/a.wav"):
        write(tmp_path / "voices" / name)
    corpus = voices(str(tmp_path / "voices"), str(tmp_path / "starter"), source_weights=WEIGHTS | {"speech_voices": 5})
    assert set(corpus.train.sources) == {"speech", "music", "effects", "speech_voices"}
    SegmentDataset(corpus.train, 24000, 1, 1.0, source_weights=corpus.source_weights)
