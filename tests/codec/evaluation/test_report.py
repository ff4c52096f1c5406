"""The report page: its content, that it loads nothing, and that unusual runs get a page too."""

import base64
import io
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.evaluation.metrics import METRICS
from codec.evaluation.report import samples
from codec.evaluation.report.charts import Series, area_chart, bar_chart, color_ramp, colors, line_chart
from codec.evaluation.report.page import write_report
from codec.evaluation.report.records import read_metrics
from codec.evaluation.report.samples import read_clips, versions_of
from report_page import HOSTILE, Page

SAMPLE_RATE = 24000


def sine(seconds: float, hertz: float = 1000.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)


def make_run(folder: Path, train: Iterable[dict[str, Any]], validation: Iterable[dict[str, Any]]) -> Path:
    records = [{"split": "validation", **record} for record in validation]
    records += [{"split": "train", **record} for record in train]
    (folder / "samples").mkdir(parents=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def train_records(count: int) -> list[dict[str, Any]]:
    return [
        {
            "step": 10 * i,
            "seconds": 3.0 * i,
            "loss/l1": 1 / i,
            "loss/mel": None if i == 2 else 100.0 / i**2,
            "norm/l1": 1e-3,
            "norm/mel": 1e-2,
            "weight/l1": 1e3,
            "weight/mel": 1e2,
            "share/l1": 0.25,
            "share/mel": 0.75,
            "projection/l1": -0.25,
            "projection/mel": 1.25,
            "cosine/l1/mel": -0.5,
            "conflicts": 1.0,
            "commitment_ratio": 0.3,
            "commitment": 0.1,
            "lr": 3e-4,
            "gradient_norm": 1.0,
            "balanced_norm": 0.5,
            "audio_seconds_per_second": 20.0 + i,
            "discriminator/loss": 1.5,
            "codebook/0/perplexity": 99.0,
            "num_codebooks": 2,
            "skipped_steps": i // 3,
        }
        for i in range(1, count + 1)
    ]


def validation_records() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "seconds": step * 0.3,
            "music/mel_distance": 4.0 / (1 + step),
            "music/si_sdr_db": -30.0 + step,
            "speech/mel_distance": 5.0,
            "codebook/0/perplexity": 100.0 + step,
            "codebook/1/perplexity": 50.0,
            "codebook/0/dead_fraction": 0.5,
            "codebook/1/dead_fraction": 0.25,
            "codebook/0/bits": 6.0,
        }
        for step in (0, 30)
    ]


def captions(page: Page) -> list[str]:
    """Of the charts."""
    return re.findall(r"<figure data-chart[^>]*>\s*<figcaption>(.*?)</figcaption>", page.source)


def charts(page: Page) -> list[dict[str, Any]]:
    (text,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page.source)
    return json.loads(text)


def rows(page: Page) -> list[list[str]]:
    """The cells of the scores."""
    parts = re.findall(r"<tr>(.*?)</tr>", page.source[page.source.index('class="scores"') :], re.DOTALL)
    return [[re.sub("<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", part)] for part in parts]


def test_a_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "starter", train_records(60), validation_records())
    (run / "config.yaml").write_text(
        "seed: 7 # <first>\nvalidation: {bandwidth_kbps: 6.0}\ntrainer: {max_steps: 1200}\n", encoding="utf-8"
    )
    for name in ("music_1", "speech_1"):
        soundfile.write(run / "samples" / f"{name}.reference.wav", sine(0.5), SAMPLE_RATE)
        for step in (20, 280, 400, 600):
            soundfile.write(run / "samples" / f"{name}.step{step:07d}.wav", step / 1000 * sine(0.5), SAMPLE_RATE)
    path = write_report(run)
    assert path == run / "report.html"
    assert not list(run.glob("*.part*"))
    page = Page(path)
    assert page.source.startswith("<!DOCTYPE html>")

    # The reference, the newest estimate, the newest of the first half and Opus, in this order, losslessly.
    labels = re.findall(r'<figure data-version="(\w+)" data-system="[^"]*"><figcaption>(.*?)</figcaption>', page.source)
    assert labels[:3] == [("reference", "reference"), ("now", "now, step 600"), ("earlier", "step 280")]
    assert labels[3][0] == "opus"
    assert re.fullmatch(r"Opus, \d\.\d kbit/s", labels[3][1])
    assert labels[4:7] == labels[:3]
    sounds = [soundfile.read(io.BytesIO(content)) for content in page.content("audio/wav")]
    assert {(len(audio), rate) for audio, rate in sounds} == {(SAMPLE_RATE // 2, SAMPLE_RATE)}
    originals = [soundfile.read(run / "samples" / f"music_1.{kind}.wav")[0] for kind in ("reference", "step0000600")]
    assert np.array_equal([sounds[0][0], sounds[1][0]], originals)
    assert np.corrcoef(sounds[3][0], originals[0])[0, 1] > 0.9  # Opus is aligned with the reference
    names = [tag["data-version"] for name, tag in page.elements if name == "button" and "data-version" in tag]
    assert names == ["reference", "now", "earlier", "opus"]

    assert captions(page) == [
        "mel distance ↓",
        "SI-SDR, dB ↑",
        "l1",
        "mel",
        "commitment",
        "discriminator",
        "share of the weighted gradient norms",
        "projection on the balanced gradient, relative to its norm",
        "weight after balancing",
        "gradient norm at the decoder output",
        "cosine of two gradients",
        "fraction of loss pairs with a negative cosine",
        "norm ratio of commitment and balanced gradient at the latent",
        "perplexity of each codebook, latest validation",
        "perplexity of each codebook, validation",
        "fraction of dead codes of each codebook, latest validation",
        "fraction of dead codes of each codebook, validation",
        "learning rate",
        "gradient norm of the codec&#39;s parameters",
        "norm of the balanced gradient",
        "seconds of audio per second",
        "codebooks in use",
        "skipped steps",
    ]
    assert len(charts(page)) == len(captions(page))
    groups, head, mel, si_sdr = rows(page)
    assert groups == ["", "music", "speech"]
    assert head == ["score", *["step 0", "now", "change"] * 2]
    minus, unknown = "\N{MINUS SIGN}", "\N{EN DASH}"
    of_music, of_speech = ["4.0000", "0.1290", f"{minus}3.8710 better"], ["5.0000", "5.0000", "+0.0000"]
    assert mel == ["mel distance ↓ lower is better", *of_music, *of_speech]
    assert si_sdr == ["SI-SDR, dB ↑ higher is better", f"{minus}30.00", "0.00", "+30.00 better", *[unknown] * 3]
    assert METRICS["mel_distance"].explanation in page.text
    for fact in ("600 of 1,200 steps", "3 min 0 s", "6 kbit/s", "seed: 7 # <first>"):
        assert fact in page.text


def test_the_state_of_the_run_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", train_records(3), [])
    status = {
        "state": "running", "phase": "validation", "updated": time.time() - 90, "step": 30, "total_steps": 120,
        "seconds": 9.0, "seconds_left": 27.0, "device": "cpu", "command": "bash scripts/train.sh 'name=a b'",
        "corpus": "clips, 2.0 min", "commit": "abc1234", "parameters": 3_500_000, "message": "",
        "experiment": "vocos_decoder",
    }  # fmt: skip
    (run / "status.json").write_text(json.dumps(status), encoding="utf-8")
    text = Page(write_report(run)).text
    assert "Training is running. Now: validation." in text
    for part in ("30 of 120 steps", "27 s", "cpu", "clips, 2.0 min", "abc1234", "vocos_decoder"):
        assert part in text
    assert "bash scripts/train.sh 'name=a b'" in text
    assert "3.50 M" in text
    page = Page(write_report(run))
    assert [tag["aria-valuenow"] for _, tag in page.elements if tag.get("role") == "progressbar"] == ["25"]
    assert "Training is running" not in Page(write_report(run, running=False)).text  # closed without a last word
    failed = status | {"state": "failed", "message": "l1 is NaN"}
    (run / "status.json").write_text(json.dumps(failed), encoding="utf-8")
    page = Page(write_report(run, running=True))  # the file says how it ended
    assert "Training is running" not in page.source
    assert re.findall(r'<p class="worse">(.*?)</p>', page.source) == ["l1 is NaN"]
    assert 'href="../index.html"' not in page.source
    (tmp_path / "index.html").touch()
    assert 'href="../index.html"' in Page(write_report(run)).source


def test_advice_stands_above_the_charts_of_the_balance(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run", train_records(60), validation_records()))).source
    entries = re.findall(r"<li>([^<]*)</li>", page[page.index('class="advice"') :])
    assert [re.split(":| at ", entry)[0] for entry in entries if "at 100 %" in entry] == [
        "l1 and mel conflict",
        "l1 is opposed by the balanced gradient",
    ]
    places = ["<h2>Balance of the losses</h2>", 'class="advice"', "share of the weighted", "<h2>Codebooks</h2>"]
    assert sorted(places, key=page.index) == places
    assert page.count('class="advice"') == 1
    assert page.index('id="smoothing"') < page.index(places[0])


def test_a_run_with_one_loss_gets_no_advice_on_the_balance(tmp_path: Path) -> None:
    kept = [{k: v for k, v in record.items() if "l1" not in k} for record in train_records(10)]
    records = [
        record | {"share/mel": 1.0, "projection/mel": 1.0, "conflicts": 0.0, "skipped_steps": 0} for record in kept
    ]
    page = Page(write_report(make_run(tmp_path / "run", records, [])))
    assert 'class="advice"' not in page.source
    assert "share of the weighted gradient norms" in captions(page)


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", train_records(5), validation_records())
    soundfile.write(run / "samples" / "a.reference.wav", sine(1.5), SAMPLE_RATE)
    page = Page(write_report(run))
    assert page.loads()
    assert all(load.startswith("data:audio/flac;base64,") for load in page.loads())
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert re.findall(r"url\(|@import|\bfetch\(|XMLHttpRequest|import\(", page.source) == []
    policy = [tag["content"] for _, tag in page.elements if tag.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy[0]).startswith("default-src 'none';")


def test_names_are_escaped(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / HOSTILE.replace("/", "|"),
        [
            {"step": step, f"loss/{HOSTILE}": 1.0, f"share/{HOSTILE}": 0.5, "share/_b": 0.5, f"cosine/{HOSTILE}/b": -1}
            for step in range(1, 9)
        ],
        [{"step": 0, f"{HOSTILE}/{HOSTILE}": 1.0}],
    )
    (run / "config.yaml").write_text("</pre><script>alert(1)</script>", encoding="utf-8")
    (run / "status.json").write_text(json.dumps({"command": HOSTILE, "device": HOSTILE}), encoding="utf-8")
    clip = HOSTILE.replace("/", "|")
    soundfile.write(run / "samples" / f"{clip}.reference.wav", sine(0.1), SAMPLE_RATE)
    page = Page(write_report(run))
    assert page.count("script") == 8  # the page's own
    assert "<script>alert" not in page.source
    assert page.text.count(HOSTILE) >= 3
    assert f"{HOSTILE.replace('/', ' and ')} and b conflict: " in page.text
    labels = [attributes["aria-label"] for tag, attributes in page.elements if tag == "audio"]
    assert labels == [f"{clip}, reference"]
    assert charts(page)[0]["series"][0]["name"] == HOSTILE


def test_names_that_are_not_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [], [])
    (run / "config.yaml").write_text("validation: {bandwidth_kbps: 6.0}", encoding="utf-8")
    soundfile.write(run / "samples" / "a.reference.wav", sine(0.1), SAMPLE_RATE)
    (run / "samples" / "a.reference.wav").rename(run / "samples" / "b\udcff.reference.wav")
    assert Page(write_report(run)).count("audio") == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        '{"split": "train", "step": 1',
        '{"split": "train", "step": 1}\n',
        '{"split": "validation", "step": 0, "music/mel_distance": null}\n',
        '{"split": "train", "step": 1, "seconds": null, "loss/l1": null, "share/l1": null, "share/mel": 1.0}\n',
        '{"split": "train", "step": 1, "loss/l1": "high", "share/l1": NaN, "norm/l1": Infinity}\n',
        '{"split": "train", "step": 1, "loss/l1": 0.0, "loss/mel": -1.0, "share/l1": -0.5}\n',
        '{"split": "validation", "step": 5, "music/mel_distance": 0.0}\n'
        '{"split": "validation", "step": 9, "music/mel_distance": 1}\n',
        '[1]\n3\n{"step": 1}\n{"split": "train", "step": "one"}\n',
        '{"split": "train", "step": 1, "codebook/x/perplexity": 1, "codebook/0": 2, "codebook/3/bits": null}\n',
        '{"split": "rehearsal", "step": 1, "loss/l1": 1.0}\n',
    ],
)
def test_unusual_metrics_make_a_page(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert "<h1>" in Page(write_report(tmp_path)).source


def test_an_empty_folder_makes_a_page_and_a_missing_folder_raises(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert "There are no metrics yet." in page.text
    assert page.count("figure") == page.count("audio") == page.count("table") == page.count("button") == 0
    with pytest.raises(FileNotFoundError, match=r"expected the folder of a run, got .*absent"):
        write_report(tmp_path / "absent")


def test_incomplete_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"split": "train", "step": 1}\n{"split": "tr', encoding="utf-8")
    records, notes = read_metrics(path)
    assert len(records) == 1
    assert notes == ["1 incomplete lines of metrics.jsonl were skipped."]


def test_codebook_usage_of_training_is_shown_without_validation(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run", train_records(3), [])))
    assert "perplexity of each codebook, latest training" in captions(page)
    assert page.count("table") == 0


def test_the_page_of_a_long_run_with_many_codebooks_is_small(tmp_path: Path) -> None:
    codebooks = {f"codebook/{k}/perplexity": 10.0 * k for k in range(32)}
    train = [{**record, **codebooks} for record in train_records(3000)]
    run = make_run(tmp_path / "run", train, [])
    noise = np.random.default_rng(0).normal(size=3 * SAMPLE_RATE) * 0.1
    for clip in range(9):
        for kind in ("reference", "step0000500"):
            soundfile.write(run / "samples" / f"clip{clip}.{kind}.wav", noise, SAMPLE_RATE)
    path = write_report(run)
    page = Page(path)
    assert page.count("audio") == 16
    assert "The first 8 of 9 clips are shown." in page.text
    assert path.stat().st_size < 6_000_000  # white noise cannot be compressed
    shown = charts(page)
    assert max(len(line["y"]) for chart in shown for line in chart["series"]) == 400
    assert [len(chart["series"]) for chart in shown if len(chart["series"]) > 4] == [32]
    assert "codebook 1<" in page.source
    assert "codebook 32<" in page.source
    assert "codebook 5<" not in page.source


def test_clips_that_cannot_be_read_get_a_note(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.reference.wav", np.zeros((3, 2)), SAMPLE_RATE)
    soundfile.write(tmp_path / "lone.step0000003.wav", sine(0.1), SAMPLE_RATE)
    soundfile.write(tmp_path / "empty.reference.wav", np.zeros(0), SAMPLE_RATE)
    (tmp_path / "text.step0000001.wav").write_text("not audio", encoding="utf-8")
    (tmp_path / "other.wav").write_text("neither", encoding="utf-8")
    soundfile.write(tmp_path / "nan.reference.wav", np.full((50, 3), np.nan), SAMPLE_RATE, subtype="FLOAT")
    clips, notes = read_clips(tmp_path)
    assert [(clip.name, [version.key for version in clip.versions]) for clip in clips] == [
        ("good", ["reference"]),
        ("lone", ["now"]),
        ("nan", ["reference"]),
    ]
    assert versions_of(clips) == [("reference", "reference"), ("now", "now")]
    assert [note.split(" cannot")[0] for note in notes] == [
        "empty.reference.wav",
        "lone.reference.wav",
        "text.reference.wav",
        "text.step0000001.wav",
    ]


def test_a_version_that_does_not_exist_has_no_switch(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.reference.wav", sine(0.2), SAMPLE_RATE)
    for step in (0, 50):
        soundfile.write(tmp_path / f"a.step{step:07d}.wav", sine(0.2), SAMPLE_RATE)
    assert [key for key, _ in versions_of(read_clips(tmp_path)[0])] == ["reference", "now", "earlier"]
    clips, notes = read_clips(tmp_path, bandwidth_kbps=1.5)  # Opus begins at 6 kbit/s
    assert [key for key, _ in versions_of(clips)] == ["reference", "now", "earlier"]
    assert [note.split(":")[0] for note in notes] == ["Opus at 1.5 kbps is left out"]
    (tmp_path / "a.step0000000.wav").unlink()
    assert [key for key, _ in versions_of(read_clips(tmp_path, 6.0)[0])] == ["reference", "now", "opus"]


def test_a_changed_sample_is_read_again_and_an_unchanged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = samples.read_audio
    monkeypatch.setattr(samples, "read_audio", lambda path, cut: read.append(path.name) or original(path, cut))
    for kind in ("reference", "step0000050"):
        soundfile.write(tmp_path / f"a.{kind}.wav", sine(0.2), SAMPLE_RATE)
    first, _ = read_clips(tmp_path, 6.0)
    assert read == ["a.reference.wav", "a.step0000050.wav", "a.reference.wav"]  # the last one for Opus
    soundfile.write(tmp_path / "a.step0000050.wav", 0.5 * sine(0.2), SAMPLE_RATE)
    second, _ = read_clips(tmp_path, 6.0)
    assert read[3:] == ["a.step0000050.wav"]
    assert [a == b for a, b in zip(first[0].versions, second[0].versions, strict=True)] == [True, False, True]


def test_stereo_stays_stereo_and_long_clips_are_cut(tmp_path: Path) -> None:
    stereo = np.stack([sine(10.5), -sine(10.5)], axis=1)
    soundfile.write(tmp_path / "a.reference.wav", stereo, SAMPLE_RATE)
    clips, _ = read_clips(tmp_path)
    content = base64.b64decode(clips[0].versions[0].audio.partition(",")[2])
    audio, _ = soundfile.read(io.BytesIO(content))
    assert clips[0].seconds == 10.0
    assert np.array_equal(audio, soundfile.read(tmp_path / "a.reference.wav")[0][: 10 * SAMPLE_RATE])


def test_a_page_that_is_full_shows_fewer_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.reference.wav", sine(0.2), SAMPLE_RATE)
    monkeypatch.setattr(samples, "_MAX_BYTES", 2 * len(read_clips(tmp_path)[0][0].versions[0].audio))
    clips, notes = read_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a", "b"]
    assert notes == ["The first 2 of 3 clips are shown."]


def test_charts_have_only_finite_values() -> None:
    steps = np.arange(3.0)
    nothing = Series("a", steps, np.full(3, np.nan), "#000000")
    some = Series("b", steps, np.array([1.0, np.nan, 100.0]), "#123456")
    assert line_chart("", []) is None
    assert line_chart("", [nothing]) is None
    assert area_chart("", [nothing]) is None
    assert bar_chart("", np.array([np.nan]), "#000000") is None
    chart = line_chart("", [nothing, some])
    assert chart is not None
    assert chart.data["series"] == [{"name": "b", "color": "#123456", "x": [0.0, 2.0], "y": [1.0, 100.0]}]
    assert chart.data["log"] is True
    area = area_chart("", [nothing, some])
    assert area is not None
    assert [line["y"] for line in area.data["series"]] == [[0.0, 0.0, 0.0], [1.0, 0.0, 100.0]]
    assert area.data["series"][0]["x"] == {"start": 0.0, "every": 1.0}


@pytest.mark.parametrize(
    ("values", "log", "expected"),
    [
        ([1e-3, 100.0], None, True),
        ([-1.0, 100.0], None, False),
        ([0.0, 100.0], None, False),
        ([1.0, 20.0], None, False),
        ([1.0, 20.0], True, True),
        ([1.0, 100.0], False, False),
        ([-1.0, 2.0], True, False),
    ],
)
def test_axes_are_logarithmic_for_wide_ranges_of_positive_values(
    values: list[float], log: bool | None, expected: bool
) -> None:
    chart = line_chart("", [Series("a", np.arange(len(values)), np.array(values), "#123456")], log=log)
    assert chart is not None
    assert chart.log is expected


def test_long_series_become_means_of_neighbours() -> None:
    values = np.random.default_rng(0).random(20000) + 1
    chart = line_chart("", [Series("a", np.arange(20000), values, "#123456")], smooth=True)
    assert chart is not None
    (line,) = chart.data["series"]
    assert line["x"] == {"start": 24.5, "every": 50.0}
    assert line["y"] == pytest.approx(values.reshape(400, 50).mean(1), rel=1e-4)


def test_colours_are_distinct() -> None:
    for count in (1, 8, 9, 20, 40):
        assert len(set(colors(count))) == count
    assert len(set(color_ramp(32))) == 32
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in [*colors(40), *color_ramp(40)])
