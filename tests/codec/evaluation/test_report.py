"""The report page: its content, that it loads nothing, and that unusual runs get a page too."""

import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from codec.evaluation.report.charts import Series, area_chart, bar_chart, color_ramp, colors, line_chart
from codec.evaluation.report.page import write_report
from codec.evaluation.report.records import read_metrics
from codec.evaluation.report.samples import read_clips, spectrogram_db, spectrogram_png
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
            "all/mel_distance": 4.0 / (1 + step),
            "all/si_sdr_db": -30.0 + step,
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
    return re.findall(r"<figcaption>(.*?)</figcaption>", page.source)


def test_a_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "starter", train_records(60), validation_records())
    (run / "config.yaml").write_text("seed: 7 # <first>\n", encoding="utf-8")
    for name in ("music_1", "speech_1"):
        soundfile.write(run / "samples" / f"{name}.reference.wav", sine(0.5), SAMPLE_RATE)
        for step in (20, 600):
            soundfile.write(run / "samples" / f"{name}.step{step:07d}.wav", 0.1 * sine(0.5), SAMPLE_RATE)
    path = write_report(run)
    assert path == run / "report.html"
    assert not list(run.glob("*.part"))
    page = Page(path)
    assert page.source.startswith("<!DOCTYPE html>")

    # A player and a spectrogram for the reference and the newest estimate of each clip.
    assert page.count("audio") == page.count("image") == 4
    pictures = [Image.open(io.BytesIO(content)) for content in page.content("image/png")]
    assert [picture.size[1] for picture in pictures] == [256] * 4
    for content in page.content("audio/flac"):
        audio, sample_rate = soundfile.read(io.BytesIO(content))
        assert (audio.shape, sample_rate) == ((SAMPLE_RATE // 2,), SAMPLE_RATE)
    assert page.text.count("step 600") == 2
    assert "step 20" not in page.text

    assert captions(page) == [
        "mel distance",
        "SI-SDR, dB",
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
    cells = re.findall(r"<td>(.*?)</td>", page.source)
    assert cells[:5] == ["all", "mel distance", "4.00", "0.129", "\N{MINUS SIGN}97%"]
    assert cells[5:10] == ["all", "SI-SDR, dB", "\N{MINUS SIGN}30.0", "0.00", "+30.0 dB"]
    assert "step 0" in page.text
    assert "3 min 0 s" in page.text
    assert "seed: 7 # <first>" in page.text


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
    soundfile.write(run / "samples" / "a.reference.wav", sine(0.1), SAMPLE_RATE)
    page = Page(write_report(run))
    assert page.loads()
    assert all(load.startswith(("#", "data:image/png;base64,", "data:audio/flac;base64,")) for load in page.loads())
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert re.findall(r"url\((?!#)|@import", page.source) == []
    # The remaining addresses are XML namespaces, which are not loaded.
    assert {
        name for tag, attributes in page.elements for name, value in attributes.items() if "http" in str(value)
    } <= {
        "xmlns",
        "xmlns:xlink",
    }


def test_names_are_escaped_and_formulas_stay_text(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / HOSTILE.replace("/", "|"),
        [
            {"step": step, f"loss/{HOSTILE}": 1.0, f"share/{HOSTILE}": 0.5, "share/_b": 0.5, f"cosine/{HOSTILE}/b": -1}
            for step in range(1, 9)
        ],
        [{"step": 0, f"{HOSTILE}/{HOSTILE}": 1.0}],
    )
    (run / "config.yaml").write_text("</pre><script>alert(1)</script>", encoding="utf-8")
    clip = HOSTILE.replace("/", "|")
    soundfile.write(run / "samples" / f"{clip}.reference.wav", sine(0.1), SAMPLE_RATE)
    page = Page(write_report(run))
    assert page.count("script") == 0
    assert page.text.count(HOSTILE) >= 3
    assert f"{HOSTILE.replace('/', ' and ')} and b conflict: " in page.text
    labels = [attributes["aria-label"] for _, attributes in page.elements if "aria-label" in attributes]
    assert labels == [f"spectrogram of {clip}, reference"]


def test_names_that_are_not_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [], [])
    soundfile.write(run / "samples" / "a.reference.wav", sine(0.1), SAMPLE_RATE)
    (run / "samples" / "a.reference.wav").rename(run / "samples" / "b\udcff.reference.wav")
    assert Page(write_report(run)).count("audio") == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        '{"split": "train", "step": 1',
        '{"split": "train", "step": 1}\n',
        '{"split": "validation", "step": 0, "all/mel_distance": null}\n',
        '{"split": "train", "step": 1, "seconds": null, "loss/l1": null, "share/l1": null, "share/mel": 1.0}\n',
        '{"split": "train", "step": 1, "loss/l1": "high", "share/l1": NaN, "norm/l1": Infinity}\n',
        '{"split": "train", "step": 1, "loss/l1": 0.0, "loss/mel": -1.0, "share/l1": -0.5}\n',
        '{"split": "validation", "step": 5, "all/mel_distance": 0.0}\n'
        '{"split": "validation", "step": 9, "all/mel_distance": 1}\n',
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
    assert page.count("figure") == page.count("audio") == page.count("table") == 0
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
    assert "codebook 1" in page.text
    assert "codebook 32" in page.text
    assert "codebook 5<" not in page.source


def test_clips_that_cannot_be_read_get_a_note(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.reference.wav", np.zeros((3, 2)), SAMPLE_RATE)
    soundfile.write(tmp_path / "lone.step0000003.wav", sine(0.1), SAMPLE_RATE)
    soundfile.write(tmp_path / "empty.reference.wav", np.zeros(0), SAMPLE_RATE)
    (tmp_path / "text.step0000001.wav").write_text("not audio", encoding="utf-8")
    (tmp_path / "other.wav").write_text("neither", encoding="utf-8")
    soundfile.write(tmp_path / "nan.reference.wav", np.full(50, np.nan), SAMPLE_RATE, subtype="FLOAT")
    clips, notes = read_clips(tmp_path)
    assert [(clip.name, clip.step, len(clip.panels)) for clip in clips] == [
        ("good", None, 1),
        ("lone", 3, 1),
        ("nan", None, 1),
    ]
    assert [note.split(" cannot")[0] for note in notes] == [
        "empty.reference.wav",
        "lone.reference.wav",
        "text.reference.wav",
        "text.step0000001.wav",
    ]


def test_a_sine_is_one_line_at_its_frequency_and_level() -> None:
    decibels = spectrogram_db(2 * sine(1.0, hertz=3000), SAMPLE_RATE)
    rows, columns = decibels.shape
    assert rows == 256
    assert 300 <= columns <= 320
    middle = decibels[:, columns // 2]
    assert middle.argmax() == pytest.approx(256 * 3000 / 12000, abs=1.01)
    assert middle.max() == pytest.approx(0, abs=0.1)
    assert np.median(middle) < -60


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 5000])
@pytest.mark.parametrize("sample_rate", [8000, 24000, 48000, 192000])
def test_spectrograms_at_any_length_and_rate(samples: int, sample_rate: int) -> None:
    rows, columns = spectrogram_db(np.zeros(samples), sample_rate).shape
    assert rows == 256
    assert 1 <= columns <= 320


def test_spectrogram_colours() -> None:
    picture = Image.open(io.BytesIO(spectrogram_png(np.array([[0.0, -80.0], [-40.0, -200.0]]), top_db=0.0)))
    assert picture.mode == "P"
    index = np.asarray(picture)
    assert index.tolist() == [[128, 0], [255, 0]]  # the first row is the lowest frequency, and lies at the bottom


def test_charts_draw_only_finite_values() -> None:
    steps = np.arange(3.0)
    nothing = Series("a", steps, np.full(3, np.nan), "#000000")
    some = Series("b", steps, np.array([1.0, np.nan, 100.0]), "#123456")
    assert line_chart([]) is None
    assert line_chart([nothing]) is None
    assert area_chart([nothing]) is None
    assert bar_chart(np.array([np.nan]), ["#000000"]) is None
    drawing = line_chart([nothing, some])
    assert drawing is not None
    assert "#123456" in drawing
    assert "#000000" not in drawing
    assert "currentColor" in drawing


def test_axes_are_logarithmic_for_wide_ranges_of_positive_values() -> None:
    def labels(values: list[float]) -> list[str]:
        drawing = line_chart([Series("a", np.arange(len(values)), np.array(values), "#123456")])
        assert drawing is not None
        return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)

    assert {"0.001", "0.1", "10"} <= set(labels([1e-3, 1e-1, 10.0, 100.0])) | {"0.1", "10"}
    assert "100" in labels([1e-3, 1e-1, 10.0, 100.0])
    assert "0.001" not in labels([-1.0, 1e-3, 100.0])
    assert "2.5" in labels([1.0, 2.0, 3.0])


def test_long_series_become_short_paths() -> None:
    values = np.random.default_rng(0).random(20000) + 1
    drawing = line_chart([Series("a", np.arange(20000), values, "#123456")], smooth=True)
    assert drawing is not None
    assert len(drawing) < 60_000


def test_colours_are_distinct() -> None:
    for count in (1, 8, 9, 20):
        assert len(set(colors(count))) == count
    assert len(set(color_ramp(32))) == 32
