"""`codec evaluate`: what it prints and writes, and its errors."""

import csv
import io
import json
import os
from pathlib import Path
from typing import NoReturn

import pytest
import soundfile
from PIL import Image

from codec.cli import main
from codec.evaluation import Metric
from codec.model_file import fingerprint, save_model
from evaluation_inputs import coding_codec, write_groups
from report_page import Page

SCORES = ["distillmos", "dnsmos", "pesq", "stoi", "visqol_speech", "visqol", "mel_distance", "stft_distance",
          "si_sdr_db", "ripple_db"]  # fmt: skip


@pytest.fixture
def audio_folder(tmp_path: Path) -> Path:
    return write_groups(tmp_path / "audio")


def test_the_command_prints_and_writes(audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "run" / "model.safetensors"
    model.parent.mkdir()
    codec = coding_codec()
    save_model(codec, model)
    arguments = ["evaluate", "--model", str(model.parent), "--data", str(audio_folder)]
    assert main([*arguments, "--seconds", "0.3", "--beams", "2", "--against", "cp {in} {out}"]) == 0
    out = capsys.readouterr().out
    for word in ("music", "speech", "recording", "codec 0.6", "codec 1.2", "opus 6", "opus 24", "DistillMOS"):
        assert word in out
    folder = model.parent / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluation.csv",
        "evaluation.json",
        "evaluation.md",
        "listening.html",
        "rate_distortion.png",
    ]
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (1 + 2 + 3 + 1)
    assert list(rows[0])[-len(SCORES) :] == SCORES
    assert rows[0]["clip"] == "music/a.wav"
    assert rows[0]["visqol"] == ""
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["fingerprint"] == fingerprint(codec)
    assert content["beams"] == 2
    assert [(p["group"], p["coder"], p["bandwidth_kbps"]) for p in content["points"]] == [
        (group, coder, kbps)
        for group in ("music", "speech")
        for coder, kbps in (
            ("recording", None),
            ("codec", 0.6),
            ("codec", 1.2),
            ("opus", 6.0),
            ("opus", 12.0),
            ("opus", 24.0),
            ("cp", None),
        )
    ]
    mels = [float(row["mel_distance"]) for row in rows if row["coder"] == "codec" and row["bandwidth_kbps"] == "0.6"]
    point = content["points"][1]
    assert point["scores"]["mel_distance"] == pytest.approx(sum(mels[:2]) / 2)
    assert point["intervals"]["mel_distance"] > 0
    assert point["scores"]["visqol"] is None
    page = Page(folder / "listening.html")
    assert all(load.startswith("data:audio/") for load in page.loads())
    versions = [tag["data-version"] for name, tag in page.elements if tag.get("role") == "radio"]
    systems = ["codec, 0.6 kbit/s", "codec, 1.2 kbit/s", "opus, 6 kbit/s", "opus, 12 kbit/s", "opus, 24 kbit/s", "cp"]
    assert versions == ["reference", *systems]
    assert page.count("audio") == 4 * len(versions)  # two clips of each group
    sounds = page.content("audio/wav")
    assert soundfile.read(io.BytesIO(sounds[0]))[0] == pytest.approx(soundfile.read(io.BytesIO(sounds[6]))[0], abs=1e-4)
    with Image.open(folder / "rate_distortion.png") as image:
        colors = image.convert("RGB").getcolors(1 << 24)
    assert colors is not None
    assert len(colors) > 100  # axes alone are a few greys


def test_the_files_are_written_before_the_table_is_printed(
    audio_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*arguments: object, **settings: object) -> NoReturn:
        raise BrokenPipeError

    save_model(coding_codec(), tmp_path / "model.safetensors")
    monkeypatch.setattr("builtins.print", closed)
    arguments = ["--model", str(tmp_path), "--data", str(audio_folder), "--seconds", "0.2", "--clips", "1"]
    assert main(["evaluate", *arguments, "--metrics", "mel_distance"]) == 141
    assert (tmp_path / "evaluation" / "evaluation.md").is_file()


def test_names_of_files_and_groups_may_be_any_bytes(audio_folder: Path, tmp_path: Path) -> None:
    save_model(coding_codec(), tmp_path / "model.safetensors")
    (audio_folder / "speech").rename(audio_folder / "日本")
    odd = audio_folder / os.fsdecode(b"caf\xe9 $1$")
    (audio_folder / "music").rename(odd)
    first = min(odd.iterdir())
    first.rename(odd / os.fsdecode(b"0\xff\n" + os.fsencode(first.name)))
    arguments = ["--model", str(tmp_path), "--data", str(audio_folder), "--seconds", "0.2", "--clips", "1"]
    assert main(["evaluate", *arguments, "--metrics", "mel_distance"]) == 0
    with (tmp_path / "evaluation" / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {r"caf\xe9 $1$", "日本"}
    assert rf"caf\xe9 $1$/0\xff\n{first.name}" in {row["clip"] for row in rows}


PEAK = Metric("peak", "peak difference", lambda e, r, _: (e - r).abs().amax((1, 2)), higher_is_better=False, digits=1)


def test_the_command_takes_a_metric_from_outside_the_packages(
    audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    save_model(coding_codec(), model)
    arguments = [
        "evaluate",
        "--model",
        str(model),
        "--data",
        str(audio_folder),
        "--seconds",
        "0.2",
        "--clips",
        "1",
    ]
    assert main([*arguments, "--metrics", "mel_distance", f"{__name__}:PEAK"]) == 0
    assert "peak" in capsys.readouterr().out
    with (tmp_path / "evaluation" / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-2:] == ["mel_distance", "peak"]
    peaks = {row["coder"]: float(row["peak"]) for row in rows}
    assert peaks["recording"] == 0 < peaks["codec"]
    assert main([*arguments, "--metrics", "vizqol"]) == 1
    assert "no metric vizqol; choose from " in capsys.readouterr().err


def test_errors_of_the_command(audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.safetensors"
    save_model(coding_codec(), model)
    common = ["evaluate", "--model", str(model), "--output", str(tmp_path / "out"), "--seconds", "0.2"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for arguments, sentence in [
        (["--data", str(tmp_path / "no")], "--data must be a folder of audio, got"),
        (["--data", str(tmp_path / "empty")], "the folder is empty"),
        (["--data", str(audio_folder), "--bitrates", "0.6", "3"], "0.6, 1.2 kbit/s, got 3"),
        (["--data", str(audio_folder), "--clips", "0"], "--clips must be 1 or more, got 0"),
        (["--data", str(audio_folder), "--seconds", "nan"], "--seconds must be above 0, got nan"),
        (
            ["--data", str(audio_folder), "--speech-groups", "talk"],
            "there is no group talk; the groups are music, speech",
        ),
        (["--data", str(audio_folder), "--against", "cp {in}"], "expected a command with {in} and {out}"),
        (["--data", str(audio_folder), "--output", str(tmp_path / "file")], "file is a file: expected a folder"),
    ]:
        assert main([*common, *arguments]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert not (tmp_path / "out").exists()
        assert error.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--model", str(model)])
    capsys.readouterr()
    (audio_folder / "music" / "broken.flac").write_bytes(b"fLaC and no more")
    assert main([*common, "--data", str(audio_folder), "--bitrates", "1.2", "--clips", "1"]) == 1
    out, error = capsys.readouterr()
    assert "codec 1.2" in out
    assert "codec 0.6" not in out
    assert error.count("\n") == 1
    assert "music/broken.flac: not audio that libsndfile can read" in error
    assert (tmp_path / "out" / "evaluation.json").is_file()
