"""The page of an ablation and results.csv, also for incomplete and corrupt folders."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ablation_inputs import fail, make_ablation, rewrite, run_result, score, write_run
from codec.evaluation import METRICS, Metric
from report_page import HOSTILE, Page
from scripts.ablation.report import write_ablation_report
from scripts.ablation.report.runs import conditions_by_weights, read_runs
from scripts.ablation.report.samples import output_similarity

DEFAULT: dict[str, dict[str, float]] = {"default": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three strategies and a loss ablation, two seeds, two weight settings, with their page."""
    folder = make_ablation(tmp_path_factory.mktemp("ablation") / "grid", loss_ablations={"only-mel": "single_loss"})
    write_ablation_report(folder)
    return folder


@pytest.fixture(scope="module")
def whole_page(whole: Path) -> Page:
    return page_of(whole)


def page_of(folder: Path) -> Page:
    return Page(folder / "ablation.html")


def facts_of(page: Page) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.source))


def results_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text(encoding="utf-8"))))


def test_every_section_is_there(whole: Path, whole_page: Page) -> None:
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", whole_page.source) == [
        "Listen",
        "Blind test",
        "Held-out scores",
        "Differences to weighted_sum",
        "Loss weights with and without balancing",
        "Shares of the losses",
        "Cost",
        "Similar outputs",
        "Curves",
        "Settings",
    ]
    facts = facts_of(whole_page)
    assert facts == {
        "finished runs": "16",
        "failed": "0",
        "steps": "40",
        "seeds": "0, 1",
        "baseline": "weighted_sum",
        "start": "from_base",
    }
    # For both weight settings: the scatter of each group, two losses, two scores, four conditions with shares and with
    # cosines.
    charts = json.loads(re.findall(r'id="charts">(.*?)</script>', whole_page.source)[0])
    assert len(charts) == whole_page.source.count("data-chart=") == 2 * (2 + 2 + 2 + 4 + 4)
    assert [chart["kind"] for chart in charts].count("scatter") == 4
    assert {path.name for path in whole.iterdir()} == {
        "ablation.html",
        "ablation.md",
        "ablation.yaml",
        "results.csv",
        "runs",
    }


def test_the_page_is_self_contained_and_labelled(whole_page: Page) -> None:
    prefixes = ("data:audio/wav;base64,",)
    assert all(load.startswith(prefixes) for load in whole_page.loads())
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in whole_page.elements}
    assert re.findall(r"url\((?!#)|@import|\bfetch\(|XMLHttpRequest|import\(", whole_page.source) == []
    policy = [a["content"] for tag, a in whole_page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy[0]).startswith("default-src 'none';")
    assert all("scope" in attributes for tag, attributes in whole_page.elements if tag == "th")
    assert whole_page.count("caption") == whole_page.count("table")
    for tag, attributes in whole_page.elements:
        if tag == "audio":
            assert attributes["aria-label"]


def test_all_conditions_have_samples_of_the_same_clips(whole: Path, whole_page: Page) -> None:
    players = [str(attributes["aria-label"]) for tag, attributes in whole_page.elements if tag == "audio"]
    # Two seeds, four clips; the reference, and four conditions with each of two weight settings.
    assert len(players) == 2 * 4 * (1 + 8)
    labels = {label.partition(", ")[2] for label in players}
    assert labels >= {"reference", "encodec", "encodec, adversarial-x10", "only-mel"}
    clips = [label.partition(", ")[0] for label in players[: 4 * 9]]
    assert clips[::9] == ["music-a", "speech-a", "music-b", "speech-b"]
    switches = [a["data-version"] for tag, a in whole_page.elements if a.get("role") == "radio"]
    assert switches == [label.partition(", ")[2] for label in players[:9]]
    newest, _ = soundfile.read(whole / "runs" / "encodec.default.seed0" / "samples" / "music-a.step0000040.wav")
    audio = [soundfile.read(io.BytesIO(content))[0] for content in whole_page.content("audio/wav")[:3]]
    assert np.array_equal(audio[2], newest)  # reference, weighted_sum, encodec


def test_only_settings_that_applied_are_shown(tmp_path: Path) -> None:
    make_ablation(tmp_path, ("weighted_sum",), (0,), DEFAULT, seconds=0.1)
    settings = "start: START\nbase: runs/starter\nmax_steps: 9\nmax_minutes: null\noverrides: []\nmagnitude: null\n"
    settings += "experiments: {base: base-file, from_base: from-base-file, from_scratch: from-scratch-file}\n"
    of_base = {"runs/starter", ": base-file", "from-base-file"}
    for start, hidden in (("from_base", {"from-scratch-file"}), ("from_scratch", of_base)):
        (tmp_path / "ablation.yaml").write_text(settings.replace("START", start), encoding="utf-8")
        page = Page(write_ablation_report(tmp_path))
        names = of_base | {"from-scratch-file"}
        assert {name for name in names if name in page.text} == names - hidden
        assert not {"max minutes", "overrides", "magnitude", "null"} & set(re.findall(r"<dt>(.*?)</dt>", page.source))
        assert "max_minutes" not in page.text
        assert "max_steps: 9" in page.text
    for broken in ("a: [", "- 1\n", ""):
        (tmp_path / "ablation.yaml").write_text(broken, encoding="utf-8")
        assert "Settings that applied" not in Page(write_ablation_report(tmp_path)).text


def test_groups_have_tables_of_their_own_metrics(whole_page: Page) -> None:
    tables = dict(re.findall(r"<caption>(music|speech)</caption>\s*<thead>(.*?)</thead>", whole_page.source, re.DOTALL))
    assert "PESQ" not in tables["music"]
    assert "PESQ" in tables["speech"]


def test_results_csv_has_a_row_per_run(whole: Path) -> None:
    rows = results_of(whole)
    assert len(rows) == 16
    row = next(row for row in rows if row["run"] == "pcgrad.adversarial-x10.seed1")
    assert {key: row[key] for key in ("strategy", "weights", "loss_ablation", "seed", "steps")} == {
        "strategy": "pcgrad", "weights": "adversarial-x10", "loss_ablation": "", "seed": "1", "steps": "40",
    }  # fmt: skip
    values = [score(1, 1, clip) for clip in range(4)]
    assert float(row["music/si_sdr_db"]) == np.mean(values[:2])
    assert float(row["speech/si_sdr_db"]) == np.mean(values[2:])
    assert row["peak_memory_mib"] == ""
    assert not {"music/pesq", "bitrate_efficiency"} & row.keys()  # never measured
    assert "si_sdr_db" not in row  # groups are never averaged together
    assert {row["loss_ablation"] for row in rows} == {"", "single_loss"}


def test_one_seed_has_means_without_intervals(tmp_path: Path) -> None:
    write_ablation_report(make_ablation(tmp_path, seeds=(3,), settings=DEFAULT))
    page = page_of(tmp_path)
    cells = re.findall(r'<td class="[^"]*"[^>]*>(.*?)</td>', page.source)
    assert f"{np.mean([score(1, 3, c) for c in range(2)]):.2f}" in cells
    assert not any("±" in cell for cell in cells)
    assert "music: One seed: Wilcoxon's signed-rank test over 2 clips, 2 comparisons" in page.text
    assert "p is 1, so no difference can pass at 5 %" in page.text
    assert "A second seed would show" in page.text


def test_diverged_runs_are_shown_with_their_reason(tmp_path: Path) -> None:
    make_ablation(tmp_path, settings=DEFAULT)
    for run, reason in (
        ("pcgrad.default.seed0", "NaN\nat step 3"),
        ("encodec.default.seed0", "x"),
        ("encodec.default.seed1", "y"),
    ):
        fail(tmp_path / "runs" / run, reason)
    (tmp_path / "runs" / "rlw.default.seed0").mkdir()  # unfinished
    write_ablation_report(tmp_path)
    page = page_of(tmp_path)
    facts = facts_of(page)
    assert [facts[name] for name in ("finished runs", "failed", "unfinished")] == ["3", "3", "1"]
    assert "1 of 2 seeds failed: NaN at step 3" in page.text
    assert 'class="failed" colspan="' in page.source
    assert ">failed: x; y</td>" in page.source
    labels = [attributes["data-version"] for _, attributes in page.elements if attributes.get("role") == "radio"]
    assert labels == ["reference", "weighted_sum", "pcgrad"]
    rows = results_of(tmp_path)
    assert [row["failure"] for row in rows] == ["x", "y", "NaN at step 3", "", "", ""]
    assert rows[0]["music/si_sdr_db"] == ""


def test_strategies_with_equal_outputs_are_named(tmp_path: Path) -> None:
    make_ablation(tmp_path, settings=DEFAULT)
    for seed in (0, 1):
        source, copy = (tmp_path / "runs" / f"{name}.default.seed{seed}" / "samples" for name in ("encodec", "pcgrad"))
        shutil.copytree(source, copy, dirs_exist_ok=True)
    write_ablation_report(tmp_path)
    text = page_of(tmp_path).text
    assert "(40 dB): encodec, pcgrad." in text
    assert "Two seeds of the same strategy agree to " in text
    conditions = conditions_by_weights(read_runs(tmp_path)[0], "weighted_sum")["default"]
    assert np.nanmax(output_similarity(conditions)) == 100


def test_a_metric_from_outside_the_registry_has_its_label_and_direction(tmp_path: Path) -> None:
    make_ablation(tmp_path, seeds=(0,), settings=DEFAULT, seconds=0.1)
    for run in (tmp_path / "runs").iterdir():
        rewrite(run, scores={"loudness": float(len(run.name))})
    loudness = Metric("loudness", "Loudness", lambda *_: 0.0, higher_is_better=True, unit="LUFS")
    write_ablation_report(tmp_path, metrics={**METRICS, "loudness": loudness})
    assert "Loudness, LUFS ↑" in page_of(tmp_path).text
    write_ablation_report(tmp_path)
    assert "Loudness" not in page_of(tmp_path).text


def test_names_are_escaped(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "|")
    make_ablation(tmp_path / "grid", (name, "weighted_sum"), (0,), {f"{name}-x10": {"l1": 10.0}}, seconds=0.1)
    fail(tmp_path / "grid" / "runs" / f"weighted_sum.{name}-x10.seed0", HOSTILE)
    page = Page(write_ablation_report(tmp_path / "grid"))
    assert page.count("script") == 10  # the page's own
    assert "<script>alert" not in page.source
    assert page.text.count(name) > 3
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"clips": {"a": 3}}', "TypeError"),
        ('{"clips": []}', "AttributeError"),
    ],
)
def test_an_unreadable_result_is_named_and_left_out(tmp_path: Path, text: str, error: str) -> None:
    path = write_run(tmp_path, run_result("encodec", "default", 0, 0)) / "result.json"
    path.write_text(text, encoding="utf-8")
    write_run(tmp_path, run_result("pcgrad", "default", 0, 1))
    runs, unfinished, notes = read_runs(tmp_path)
    assert ([run.strategy for run in runs], unfinished) == (["pcgrad"], 0)
    (note,) = notes
    assert note.startswith("encodec.default.seed0/result.json ")
    assert error in note


def test_an_empty_folder_has_a_page_and_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    page = Page(write_ablation_report(tmp_path))
    assert "No run has finished yet." in page.text
    assert page.count("table") == page.count("audio") == page.count("figure") == 0
    assert (tmp_path / "results.csv").read_text(encoding="utf-8").startswith("run,strategy,weights")
    with pytest.raises(FileNotFoundError, match="absent"):
        write_ablation_report(tmp_path / "absent")


def test_without_the_baseline_there_are_no_differences(tmp_path: Path) -> None:
    make_ablation(tmp_path, seeds=(0,), settings=DEFAULT, seconds=0.1)
    page = Page(write_ablation_report(tmp_path, baseline="uniform"))
    assert "No run of uniform has finished" in page.text
    assert "Difference to uniform" not in page.text
    single = make_ablation(tmp_path / "single", ("weighted_sum",), (0,), DEFAULT, seconds=0.1)
    page = Page(write_ablation_report(single))
    assert "Only weighted_sum has finished" in page.text
    assert "The blind test needs samples of at least two strategies." in page.text


def test_runs_without_samples_metrics_or_scores_have_a_page(tmp_path: Path) -> None:
    make_ablation(tmp_path, seeds=(0, 1), settings=DEFAULT, seconds=0.1)
    for run in (tmp_path / "runs").iterdir():
        shutil.rmtree(run / "samples")
        (run / "metrics.jsonl").write_text('{"split": "train", "step": 1, "loss/l1": null}\n{"spl', encoding="utf-8")
    (tmp_path / "runs" / "pcgrad.default.seed0" / "metrics.jsonl").unlink()
    for seed in (0, 1):
        run = tmp_path / "runs" / f"encodec.default.seed{seed}"
        rewrite(run, scores={"si_sdr_db": None}, clips={}, seconds_per_step=None)
    (tmp_path / "runs" / "pcgrad.default.seed1" / "result.json").write_text("{", encoding="utf-8")
    write_ablation_report(tmp_path)
    page = page_of(tmp_path)
    assert "There are no samples." in page.text
    for note in ("pcgrad.default.seed1/result.json", "encodec.default.seed0: ", "pcgrad.default.seed0: "):
        assert note in page.text
    assert "<h2>Curves</h2>" not in page.source
    assert "nan" not in re.sub(r"<script>.*?</script>", "", page.source, flags=re.DOTALL).lower()


def test_an_ablation_with_only_failed_runs_has_a_page(tmp_path: Path) -> None:
    make_ablation(tmp_path, ("encodec", "weighted_sum"), (0,), DEFAULT, seconds=0.1)
    for run in (tmp_path / "runs").iterdir():
        fail(run, "every loss is NaN")
    write_ablation_report(tmp_path)
    page = page_of(tmp_path)
    assert page.text.count("failed: every loss is NaN") == 4  # scores and cost
    assert "No run of weighted_sum has finished" in page.text
