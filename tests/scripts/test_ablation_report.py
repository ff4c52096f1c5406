"""What the page of an ablation says, what results.csv holds, and that no folder is too odd for them."""

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from ablation_inputs import CLIPS, RATE, SETTINGS, STRATEGIES, cell_entry, fail, make_ablation, score, write_cell
from codec.evaluation import si_sdr_db
from codec.evaluation.report.charts import Series, area_chart, line_chart
from report_page import HOSTILE, Page
from scripts.ablation.report import charts as ablation_charts
from scripts.ablation.report import samples as ablation_sounds
from scripts.ablation.report.charts import curves
from scripts.ablation.report.page import write_ablation_report
from scripts.ablation.report.runs import conditions_by_weights, read_runs
from scripts.ablation.report.samples import listen, output_agreement
from scripts.ablation.report.statistics import mean_interval
from scripts.ablation.report.tables import (
    Table,
    balancing_table,
    cost_table,
    difference_table,
    score_table,
)

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
PLAIN: dict[str, dict[str, float]] = {"default": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three strategies and an loss ablation, two seeds, two settings of the weights, with its page."""
    folder = make_ablation(tmp_path_factory.mktemp("ablation") / "grid", loss_ablations={"only-mel": "single_loss"})
    write_ablation_report(folder)
    return folder


def page_of(folder: Path) -> Page:
    return Page(folder / "ablation.html")


def grid(folder: Path, reference: str = "weighted_sum") -> dict[str, Any]:
    return conditions_by_weights(read_runs(folder)[0], reference)


def rewrite(folder: Path, cell: str, **changes: Any) -> None:
    path = folder / "runs" / cell / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def texts(table: Table) -> dict[str, list[str]]:
    return {row.name: [entry.text for entry in row.entries] for body in table.bodies for row in body}


def marks(table: Table) -> dict[str, list[str]]:
    return {row.name: [entry.mark for entry in row.entries] for body in table.bodies for row in body}


def test_every_section_is_there(whole: Path) -> None:
    page = page_of(whole)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page.source) == [
        "Held-out scores",
        "Differences to weighted_sum",
        "Loss weights, with and without balancing",
        "Cost",
        "Which strategies do the same",
        "Curves",
        "Listening",
        "Blind test",
        "Settings",
    ]
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.source))
    assert facts.pop("written")
    assert facts == {
        "cells finished": "16",
        "failed": "0",
        "steps": "40",
        "seeds": "0, 1",
        "reference strategy": "weighted_sum",
        "start": "a common checkpoint",
    }
    # Losses, held-out scores, shares and cosines of both settings: two losses and two scores, four conditions each.
    assert page.count("svg") == 2 * (2 + 2 + 4 + 4)
    assert not list(whole.glob("*.partial"))


def test_the_page_loads_nothing_and_is_labelled(whole: Path) -> None:
    page = page_of(whole)
    assert all(load.startswith(("#", "data:image/png;base64,", "data:audio/wav;base64,")) for load in page.loads())
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert re.findall(r"url\((?!#)|@import|\bfetch\(|XMLHttpRequest|import\(", page.source) == []
    policy = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy[0]).startswith("default-src 'none';")
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert page.count("caption") == page.count("table")
    for tag, attributes in page.elements:
        if tag == "img":
            assert attributes["alt"]
        if tag == "audio":
            assert attributes["aria-label"]


def test_scores_are_means_with_intervals_over_seeds(whole: Path) -> None:
    (conditions, _) = grid(whole).values()
    table = score_table("all", conditions, ["si_sdr_db", "codes_used"], lambda cell, m: cell.scores[m])
    for place, strategy in enumerate(STRATEGIES):
        interval = mean_interval(np.array([np.mean([score(place, seed, c) for c in range(4)]) for seed in (0, 1)]))
        assert texts(table)[strategy][0] == f"{interval.mean:.2f} ± {interval.half_width:.2f}"
    assert [len(body) for body in table.bodies] == [3, 1]  # strategies, loss ablations
    assert next(iter(texts(table))) == "weighted_sum"  # the reference first
    best = {"weighted_sum": ["best", "best"], "encodec": ["", ""], "pcgrad": ["", ""], "only-mel": ["", ""]}
    assert marks(table) == best  # the loss ablation has the higher score, and does not compete


def test_lower_is_better_for_a_distance_and_nothing_is_best_alone_or_unknown(tmp_path: Path) -> None:
    conditions = grid(make_ablation(tmp_path, seeds=(0,), settings=PLAIN))["default"]
    values = {"encodec": 1.0, "pcgrad": 2.0, "weighted_sum": 3.0}

    def column(metric: str, values: dict[str, float]) -> dict[str, str]:
        table = score_table("", conditions, [metric], lambda cell, _: values.get(cell.strategy, np.nan))
        return {name: mark for name, (mark,) in marks(table).items()}

    assert column("mel_distance", values) == {"encodec": "best", "pcgrad": "", "weighted_sum": ""}
    assert column("si_sdr_db", values) == {"encodec": "", "pcgrad": "", "weighted_sum": "best"}
    assert set(column("something_new", values).values()) == {""}
    assert set(column("pesq", {"encodec": 1.0}).values()) == {""}
    assert set(column("pesq", dict.fromkeys(values, 1.0)).values()) == {""}


def test_one_seed_has_a_mean_without_an_interval(tmp_path: Path) -> None:
    write_ablation_report(make_ablation(tmp_path, seeds=(3,), settings=PLAIN))
    page = page_of(tmp_path)
    cells = re.findall(r'<td class="[^"]*"[^>]*>(.*?)</td>', page.source)
    assert f"{np.mean([score(1, 3, c) for c in range(4)]):.2f}" in cells
    assert not any("±" in cell for cell in cells)
    assert "Wilcoxon&#39;s signed ranks over 4 clips, 2 comparisons" in page.source
    assert "The smallest p there can be is 0.25, so nothing can pass at 5 %" in page.source
    assert "With one seed there is no yardstick" in page.text


def test_differences_are_paired_and_called_by_their_direction(tmp_path: Path) -> None:
    for seed in range(4):
        for strategy, gain in (("weighted_sum", 0.0), ("good", 1.0), ("same", 0.0)):
            entry = cell_entry(strategy, "default", seed, 0)
            for index, clip in enumerate(entry["clips"].values()):
                value = 10 * seed + 3 * index + gain + 0.01 * gain * np.sin(seed)
                clip |= {"si_sdr_db": value, "mel_distance": value}
            write_cell(tmp_path, entry)
    conditions = grid(tmp_path)["default"]
    table, sentences = difference_table("", conditions, conditions[0], ["si_sdr_db", "mel_distance"])
    half_width = mean_interval(1 + 0.01 * np.sin(np.arange(4))).half_width
    good, same = table.bodies[0]
    assert (good.name, same.name) == ("good", "same")
    assert [entry.mark for entry in good.entries] == ["better", "worse"]
    assert good.entries[0].text == f"+1.00 ± {half_width:.2f}"
    assert good.entries[0].detail == "p < 0.001: better"
    assert [(entry.text, entry.detail) for entry in same.entries] == [
        ("+0.00 ± 0.00", "p = 1.000"),
        ("+0.0000 ± 0.0000", "p = 1.000"),
    ]
    # t(1 - 0.05 / 4, 3) / sqrt(4) for two comparisons.
    assert sentences == [
        "Paired t-test, 4 seeds, 2 comparisons: the first to pass at 5 % needs a mean of 2.1 times its standard "
        "deviation over seeds."
    ]


def test_tests_of_seeds_and_of_clips_are_told_apart_and_corrected_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        for place, strategy in enumerate(["weighted_sum", "a", "b", "c"][: 4 if seed == 0 else 3]):
            write_cell(tmp_path, cell_entry(strategy, "default", seed, place))
    conditions = grid(tmp_path)["default"]
    table, sentences = difference_table("", conditions, conditions[0], ["si_sdr_db"])
    a, _, c = (row.entries[0] for row in table.bodies[0])
    assert a.detail.startswith("t, 2 seeds, p = ")
    assert c.detail == "Wilcoxon, 4 clips, p = 0.125"  # the only one of its family: not corrected
    assert "±" in a.text
    assert "±" not in c.text
    assert [sentence.split(":")[0] for sentence in sentences] == ["Paired t-test, 2 seeds, 2 comparisons", "One seed"]
    assert sentences[0].endswith("too few to show any but large differences.")
    assert "1 comparison." in sentences[1]


def test_cells_that_diverged_are_shown_with_their_reason(tmp_path: Path) -> None:
    make_ablation(tmp_path, settings=PLAIN)
    for cell, reason in (
        ("pcgrad.default.seed0", "NaN\nat step 3"),
        ("encodec.default.seed0", "x"),
        ("encodec.default.seed1", "y"),
    ):
        fail(tmp_path / "runs" / cell, json.loads((tmp_path / "runs" / cell / "result.json").read_text()), reason)
    (tmp_path / "runs" / "rlw.default.seed0").mkdir()  # still running
    write_ablation_report(tmp_path)
    page = page_of(tmp_path)
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.source))
    assert [facts[name] for name in ("cells finished", "failed", "not finished")] == ["3", "3", "1"]
    assert "1 of 2 seeds failed: NaN at step 3" in page.text
    assert 'class="failed" colspan="' in page.source
    assert ">failed: x; y</td>" in page.source
    labels = {attributes.get("data-label") for tag, attributes in page.elements if tag == "audio"}
    assert labels == {"reference", "pcgrad", "weighted_sum"}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8"))))
    assert [row["failure"] for row in rows] == ["x", "y", "NaN at step 3", "", "", ""]
    assert rows[0]["si_sdr_db"] == ""


def test_results_hold_a_row_per_cell(whole: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((whole / "results.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 16
    row = next(row for row in rows if row["cell"] == "pcgrad.adversarial-x10.seed1")
    assert {key: row[key] for key in ("strategy", "weights", "loss_ablation", "seed", "steps")} == {
        "strategy": "pcgrad", "weights": "adversarial-x10", "loss_ablation": "", "seed": "1", "steps": "40",
    }  # fmt: skip
    values = [score(1, 1, clip) for clip in range(4)]
    assert float(row["si_sdr_db"]) == np.mean(values)
    assert float(row["music/si_sdr_db"]) == np.mean(values[:2])
    assert float(row["speech/si_sdr_db"]) == np.mean(values[2:])
    assert row["music/pesq"] == row["peak_memory_mib"] == ""
    assert "bitrate_efficiency" not in row  # nowhere measured
    assert {row["loss_ablation"] for row in rows} == {"", "single_loss"}


def test_groups_have_their_own_tables_with_what_was_measured_there(whole: Path) -> None:
    page = page_of(whole)
    tables = dict(re.findall(r"<caption>(music|speech)</caption>\s*<thead>(.*?)</thead>", page.source, re.DOTALL))
    assert "PESQ" not in tables["music"]
    assert "PESQ" in tables["speech"]


def test_weights_against_balancing_has_the_shape_of_the_paper(tmp_path: Path) -> None:
    settings = {"default": {}, "adversarial-x100": {"adversarial": 100.0}, "adversarial-x10": {"adversarial": 10.0}}
    make_ablation(tmp_path, settings=settings)
    cell = "encodec.adversarial-x100.seed"
    for seed in (0, 1):
        path = tmp_path / "runs" / f"{cell}{seed}"
        fail(path, json.loads((path / "result.json").read_text()), "NaN")
    table = balancing_table(grid(tmp_path))
    assert table is not None
    assert [row.name for row in table.bodies[0]] == ["default", "adversarial-x10", "adversarial-x100"]
    assert table.head == ["weights", *["with balancing (encodec)", "without (weighted_sum)"] * 2]
    assert table.spans == [("", 1), ("SI-SDR, dB ↑", 2), ("mel distance ↓", 2)]  # ViSQOL was not measured
    assert [entry.mark for entry in table.bodies[0][0].entries] == ["", "best", "", "best"]
    assert [entry.text for entry in table.bodies[0][2].entries][::2] == ["failed", "failed"]
    assert [entry.mark for entry in table.bodies[0][2].entries] == [""] * 4


@pytest.mark.parametrize(
    ("strategies", "settings"), [(STRATEGIES, PLAIN), (("encodec", "pcgrad"), SETTINGS), (("weighted_sum",), SETTINGS)]
)
def test_without_several_settings_of_both_there_is_no_such_table(
    tmp_path: Path, strategies: tuple[str, ...], settings: dict[str, dict[str, float]]
) -> None:
    assert balancing_table(grid(make_ablation(tmp_path, strategies, (0,), settings))) is None


def test_cost_is_relative_to_the_reference(whole: Path) -> None:
    table = cost_table(grid(whole), "weighted_sum")
    assert table.head[2] == "ratio to weighted_sum"
    assert texts(table)["weighted_sum"] == ["110.0", "1.000", DASH, "0"]
    assert texts(table)["encodec"] == ["100.0", "0.909", "512", "0"]
    assert {row[1] for row in texts(cost_table(grid(whole), "absent")).values()} == {DASH}


def test_agreement_is_the_si_sdr_between_outputs(whole: Path) -> None:
    conditions = grid(whole)["default"]
    agreement = output_agreement(conditions)

    def audio(strategy: str, seed: int, clip: str) -> torch.Tensor:
        path = whole / "runs" / f"{strategy}.default.seed{seed}" / "samples" / f"{clip}.step0000040.wav"
        return torch.from_numpy(soundfile.read(path)[0])[None, None]

    names = [condition.strategy for condition in conditions]
    first, second = names.index("encodec"), names.index("pcgrad")
    between = [float(si_sdr_db(audio("encodec", s, c), audio("pcgrad", s, c))) for s in (0, 1) for c in CLIPS]
    assert agreement[first, second] == pytest.approx(np.mean(between), abs=1e-6)
    assert agreement[second, first] == pytest.approx(agreement[first, second], abs=1e-9)
    own = [float(si_sdr_db(audio("encodec", 0, c), audio("encodec", 1, c))) for c in CLIPS]
    assert agreement[first, first] == pytest.approx(np.mean(own), abs=1e-6)


def test_strategies_that_do_the_same_are_named(tmp_path: Path) -> None:
    make_ablation(tmp_path, settings=PLAIN)
    for seed in (0, 1):
        source, copy = (tmp_path / "runs" / f"{name}.default.seed{seed}" / "samples" for name in ("encodec", "pcgrad"))
        shutil.copytree(source, copy, dirs_exist_ok=True)
    write_ablation_report(tmp_path)
    text = page_of(tmp_path).text
    assert "Collapsed into one, their outputs within 1 % of each other's amplitude (40 dB): encodec, pcgrad." in text
    assert np.nanmax(output_agreement(grid(tmp_path)["default"])) == 100
    assert "The same strategy under two seeds agrees to " in text


def test_silent_missing_and_odd_outputs_are_not_compared(tmp_path: Path) -> None:
    make_ablation(tmp_path, ("a", "b", "c", "d"), (0,), PLAIN)
    samples = {name: tmp_path / "runs" / f"{name}.default.seed0" / "samples" for name in "abcd"}
    for clip in CLIPS:
        soundfile.write(samples["b"] / f"{clip}.step0000040.wav", np.zeros(8000), RATE)
        soundfile.write(samples["c"] / f"{clip}.step0000040.wav", np.ones(50), RATE)
        (samples["d"] / f"{clip}.step0000040.wav").write_text("not audio", encoding="utf-8")
    assert np.isnan(output_agreement(grid(tmp_path)["default"])).all()
    write_ablation_report(tmp_path)
    page = page_of(tmp_path)
    assert "d.default.seed0/speech-b.step0000040.wav cannot be shown: " in page.text


def test_curves_have_one_axis_and_leave_failed_cells_out(tmp_path: Path) -> None:
    strategies = [f"strategy{i:02d}" for i in range(11)] + ["weighted_sum"]
    make_ablation(tmp_path, strategies, (0,), PLAIN, seconds=0.1)
    path = tmp_path / "runs" / "strategy03.default.seed0"
    fail(path, json.loads((path / "result.json").read_text()), "NaN")
    multiples, notes = curves(grid(tmp_path)["default"], "weighted_sum")
    assert notes == []
    assert [group.title for group in multiples] == [
        "Training losses",
        "Held-out scores over steps",
        "Share of the balanced gradient",
        "Cosine between gradients",
    ]
    assert [chart.title for chart in multiples[0].charts] == ["l1", "l1", "adversarial", "adversarial"]
    assert [len(chart.legend) for chart in multiples[0].charts] == [8, 4, 8, 4]
    for chart in multiples[0].charts:
        assert chart.legend[0] == ("weighted_sum", "#8a8a8a")
    first, second = (re.findall(r"<text[^>]*>([^<]*)</text>", chart.svg) for chart in multiples[0].charts[:2])
    assert first == second  # the labels of both axes
    assert len(multiples[2].charts) == 11
    assert multiples[2].legend == [("l1", "#4a86c5"), ("adversarial", "#ee6677")]
    assert [name for name, _ in multiples[3].legend] == ["l1 and adversarial"]


def test_charts_take_limits_of_steps() -> None:
    def labels(drawing: str | None) -> set[str]:
        assert drawing is not None
        return set(re.findall(r"<text[^>]*>([^<]*)</text>", drawing))

    lines = [Series("a", np.array([0.0, 10.0]), np.array([0.5, 0.5]), "#123456")]
    for draw in (line_chart, area_chart):
        assert "100" not in labels(draw(lines))
        assert "100" in labels(draw(lines, steps=(0, 100)))


def test_seeds_are_averaged_where_both_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ablation(tmp_path, ("weighted_sum",), (0, 1), PLAIN, seconds=0.1)
    for seed, values in enumerate([[1.0, 2.0, None], [3.0, None, None]]):
        lines = [{"split": "train", "step": step, "share/l1": value} for step, value in enumerate(values)]
        path = tmp_path / "runs" / f"weighted_sum.default.seed{seed}" / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    drawn: list[Series] = []
    monkeypatch.setattr(ablation_charts, "area_chart", lambda series, **_: drawn.extend(series) or "<svg></svg>")
    assert [group.title for group in curves(grid(tmp_path)["default"], "weighted_sum")[0]] == [
        "Share of the balanced gradient"
    ]
    (line,) = drawn
    assert (line.name, line.steps.tolist()) == ("l1", [0, 1, 2])
    assert line.values.tolist() == pytest.approx([2.0, 2.0, np.nan], nan_ok=True)


def test_the_same_clips_are_heard_of_every_strategy(whole: Path) -> None:
    page = page_of(whole)
    players = [attributes for tag, attributes in page.elements if tag == "audio"]
    # Two seeds, four clips; the reference, and four conditions under two settings of the weights.
    assert len(players) == 2 * 4 * (1 + 8)
    assert {p["data-label"] for p in players} >= {"reference", "encodec", "encodec, adversarial-x10", "only-mel"}
    assert [p["data-clip"] for p in players if p["data-seed"] == "0"][::9] == [
        "music-a",
        "speech-a",
        "music-b",
        "speech-b",
    ]
    newest, _ = soundfile.read(whole / "runs" / "encodec.default.seed0" / "samples" / "music-a.step0000040.wav")
    heard = [soundfile.read(io.BytesIO(content))[0] for content in page.content("audio/wav")[:3]]
    assert np.array_equal(heard[2], newest)  # reference, weighted_sum, encodec
    assert {Image.open(io.BytesIO(content)).size[1] for content in page.content("image/png")} == {128}


def test_long_clips_many_clips_and_a_large_page_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ablation(tmp_path, seeds=(0, 1), settings=PLAIN, seconds=3.5)
    conditions = grid(tmp_path)["default"]
    heard, notes = listen(conditions, most_clips=3)
    assert [(one.seed, one.clip) for one in heard] == [
        (seed, clip) for seed in (0, 1) for clip in ("music-a", "speech-a", "music-b")
    ]
    assert notes == ["3 of 4 clips are shown."]
    sound = heard[0].sounds[0]
    assert sound.audio.startswith("data:audio/flac;base64,")
    assert soundfile.info(io.BytesIO(base64.b64decode(sound.audio.partition(",")[2]))).frames == 3 * RATE

    size = sum(len(s.audio) + len(s.image) for s in heard[0].sounds)
    monkeypatch.setattr(ablation_sounds, "_MOST_BYTES", round(2.5 * size))
    heard, notes = listen(conditions, most_clips=3)
    assert [(one.seed, one.clip) for one in heard] == [
        (0, "music-a"),
        (0, "speech-a"),
    ]  # the first seed before the next
    assert notes[1] == "4 further pairs of clip and seed are left out to keep the page small."


def test_names_are_escaped(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "|")
    make_ablation(tmp_path / "grid", (name, "weighted_sum"), (0,), {f"{name}-x10": {"l1": 10.0}}, seconds=0.1)
    cell = tmp_path / "grid" / "runs" / f"weighted_sum.{name}-x10.seed0"
    entry = json.loads((cell / "result.json").read_text())
    fail(cell, entry, HOSTILE)
    page = Page(write_ablation_report(tmp_path / "grid"))
    assert page.count("script") == 1  # the page's own
    assert page.text.count(name) > 3
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"clips": {"a": 3}}', "TypeError"),
        ('{"clips": []}', "AttributeError"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, text: str, said: str) -> None:
    path = write_cell(tmp_path, cell_entry("encodec", "default", 0, 0)) / "result.json"
    path.write_text(text, encoding="utf-8")
    write_cell(tmp_path, cell_entry("pcgrad", "default", 0, 1))
    cells, unfinished, notes = read_runs(tmp_path)
    assert ([cell.strategy for cell in cells], unfinished) == (["pcgrad"], 0)
    assert len(notes) == 1
    assert notes[0].startswith(f"encodec.default.seed0/result.json is left out: {said}")


def test_an_empty_folder_makes_a_page_and_no_folder_an_error(tmp_path: Path) -> None:
    page = Page(write_ablation_report(tmp_path))
    assert "No cell has finished yet." in page.text
    assert page.count("table") == page.count("audio") == page.count("figure") == 0
    assert (tmp_path / "results.csv").read_text(encoding="utf-8").startswith("cell,strategy,weights")
    with pytest.raises(FileNotFoundError, match=r"the folder of an ablation is wanted, got .*absent"):
        write_ablation_report(tmp_path / "absent")


def test_without_the_reference_there_are_no_differences(tmp_path: Path) -> None:
    make_ablation(tmp_path, seeds=(0,), settings=PLAIN, seconds=0.1)
    page = Page(write_ablation_report(tmp_path, reference="uniform"))
    assert "No cell of uniform has finished here, so there is nothing to compare with." in page.text
    assert "Difference to uniform" not in page.text
    alone = make_ablation(tmp_path / "single_loss", ("weighted_sum",), (0,), PLAIN, seconds=0.1)
    page = Page(write_ablation_report(alone))
    assert "Nothing but weighted_sum has finished here, so there is nothing to compare." in page.text
    assert "It takes samples of two strategies; there are none yet." in page.text


def test_cells_without_samples_metrics_or_scores_make_a_page(tmp_path: Path) -> None:
    make_ablation(tmp_path, seeds=(0, 1), settings=PLAIN, seconds=0.1)
    for cell in (tmp_path / "runs").iterdir():
        shutil.rmtree(cell / "samples")
        (cell / "metrics.jsonl").write_text('{"split": "train", "step": 1, "loss/l1": null}\n{"spl', encoding="utf-8")
    (tmp_path / "runs" / "pcgrad.default.seed0" / "metrics.jsonl").unlink()
    nothing = {"scores": {"si_sdr_db": None}, "clips": {}, "seconds_per_step": None}
    rewrite(tmp_path, "encodec.default.seed0", **nothing)
    rewrite(tmp_path, "encodec.default.seed1", **nothing)
    (tmp_path / "runs" / "pcgrad.default.seed1" / "result.json").write_text("{", encoding="utf-8")
    write_ablation_report(tmp_path)
    page = page_of(tmp_path)
    assert "There are no samples to hear." in page.text
    assert "pcgrad.default.seed1/result.json is left out: JSONDecodeError" in page.text
    assert "encodec.default.seed0: Lines of metrics.jsonl left out because they are not whole: 1." in page.text
    assert "pcgrad.default.seed0: There are no metrics yet." in page.text
    assert "<h2>Curves</h2>" not in page.source
    assert "nan" not in re.sub(r"<script>.*?</script>", "", page.source, flags=re.DOTALL).lower()


def test_only_failed_cells_make_a_page(tmp_path: Path) -> None:
    make_ablation(tmp_path, ("encodec", "weighted_sum"), (0,), PLAIN, seconds=0.1)
    for cell in (tmp_path / "runs").iterdir():
        fail(cell, json.loads((cell / "result.json").read_text()), "every loss is NaN")
    write_ablation_report(tmp_path)
    page = page_of(tmp_path)
    assert page.text.count("failed: every loss is NaN") == 4  # scores and cost
    assert "No cell of weighted_sum has finished here" in page.text
