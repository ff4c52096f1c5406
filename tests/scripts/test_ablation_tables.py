"""The tables of an ablation's report: scores, differences, loss weights, cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablation_inputs import CLIPS, SETTINGS, STRATEGIES, fail, make_ablation, run_result, score, write_run
from codec.evaluation import METRICS, Metric, describe
from scripts.ablation.report.runs import Condition, Run, conditions_by_weights, read_runs
from scripts.ablation.report.statistics import mean_interval
from scripts.ablation.report.tables import (
    Table,
    cost_table,
    described,
    difference_table,
    score_table,
    weights_table,
)

DASH = "\N{EN DASH}"
DEFAULT: dict[str, dict[str, float]] = {"default": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three strategies and a loss ablation, two seeds, two weight settings."""
    return make_ablation(tmp_path_factory.mktemp("grid"), loss_ablations={"only-mel": "single_loss"}, seconds=0.1)


def grid(folder: Path) -> dict[str, list[Condition]]:
    return conditions_by_weights(read_runs(folder)[0], "weighted_sum")


def metrics(*names: str) -> list[Metric]:
    found = {metric.name: metric for group in described(names, METRICS).values() for metric in group}
    return [found[name] for name in names]


def texts(table: Table) -> dict[str, list[str]]:
    return {row.name: [entry.text for entry in row.entries] for body in table.bodies for row in body}


def marks(table: Table) -> dict[str, list[str]]:
    return {row.name: [entry.mark for entry in row.entries] for body in table.bodies for row in body}


def test_the_checkpoint_before_the_runs_is_a_row_of_its_own_that_cannot_be_best(whole: Path) -> None:
    (conditions, _) = grid(whole).values()
    start = conditions[0].runs[0]._replace(strategy="checkpoint", scores={"music/si_sdr_db": 99.0})
    table = score_table("all", conditions, metrics("music/si_sdr_db"), [start])
    assert [len(body) for body in table.bodies] == [1, 3, 1]
    assert (texts(table)["checkpoint"], marks(table)["checkpoint"]) == (["99.00"], [""])
    assert marks(table)["weighted_sum"] == ["best"]


def test_scores_are_means_with_intervals_over_seeds(whole: Path) -> None:
    (conditions, _) = grid(whole).values()
    table = score_table("all", conditions, metrics("music/si_sdr_db", "codes_used"))
    for place, strategy in enumerate(STRATEGIES):
        interval = mean_interval(np.array([np.mean([score(place, seed, c) for c in range(2)]) for seed in (0, 1)]))
        assert texts(table)[strategy][0] == f"{interval.mean:.2f} ± {interval.half_width:.2f}"
    assert [len(body) for body in table.bodies] == [3, 1]  # strategies, loss ablations
    assert next(iter(texts(table))) == "weighted_sum"  # the baseline first
    # The loss ablation has the higher scores and does not compete.
    best = {"weighted_sum": ["best", "best"], "encodec": ["", ""], "pcgrad": ["", ""], "only-mel": ["", ""]}
    assert marks(table) == best


def test_scores_are_sorted_by_group_and_metric() -> None:
    names = ["codes_used", "speech/other", "speech/si_sdr_db", "music/si_sdr_db", "speech/pesq", "speech/pesq"]
    found = described(names, METRICS)
    assert {group: [metric.name for metric in columns] for group, columns in found.items()} == {
        "music": ["music/si_sdr_db"],
        "speech": ["speech/pesq", "speech/si_sdr_db", "speech/other"],
        "": ["codes_used"],
    }
    assert list(found) == ["music", "speech", ""]
    assert [(metric.label, metric.sign) for metric in found["speech"]] == [("PESQ", 1), ("SI-SDR", 1), ("other", 0)]


def test_one_seed_has_no_interval_and_so_no_best(tmp_path: Path) -> None:
    conditions = grid(make_ablation(tmp_path, seeds=(0,), settings=DEFAULT, seconds=0.1))["default"]
    table = score_table("", conditions, metrics("music/si_sdr_db"))
    assert {mark for (mark,) in marks(table).values()} == {""}


def test_the_best_score_follows_the_direction_of_the_metric(tmp_path: Path) -> None:
    conditions = grid(make_ablation(tmp_path, seeds=range(3), settings=DEFAULT, seconds=0.1))["default"]
    values = {"encodec": 1.0, "pcgrad": 2.0, "weighted_sum": 3.0}

    def column(metric: Metric, values: dict[str, float]) -> dict[str, str]:
        def scored(run: Run) -> Run:
            noisy = values.get(run.strategy, np.nan) + 0.001 * np.sin(run.seed + len(run.strategy))
            return run._replace(scores={metric.name: noisy})

        changed = [condition._replace(runs=list(map(scored, condition.runs))) for condition in conditions]
        return {name: mark for name, (mark,) in marks(score_table("", changed, [metric])).items()}

    def constant(*_: Any) -> float:
        return 0.0

    lower = {"encodec": "best", "pcgrad": "", "weighted_sum": ""}
    higher = {"encodec": "", "pcgrad": "", "weighted_sum": "best"}
    assert column(METRICS["mel_distance"], values) == lower
    assert column(METRICS["si_sdr_db"], values) == higher
    assert column(Metric("mine", "mine", constant, higher_is_better=False), values) == lower
    assert set(column(describe("unknown"), values).values()) == {""}
    assert set(column(METRICS["pesq"], {"encodec": 1.0}).values()) == {""}  # no rival
    assert set(column(METRICS["pesq"], dict.fromkeys(values, 1.0)).values()) == {""}  # within chance


def test_differences_are_paired_and_marked_by_their_direction(tmp_path: Path) -> None:
    for seed in range(4):
        for strategy, gain in (("weighted_sum", 0.0), ("good", 1.0), ("same", 0.0)):
            result = run_result(strategy, "default", seed, 0)
            for index, clip in enumerate(result["clips"].values()):
                value = 10 * seed + 3 * index + gain + 0.01 * gain * np.sin(seed)
                clip |= {"si_sdr_db": value, "mel_distance": value}
            write_run(tmp_path, result, seconds=0.1)
    conditions = grid(tmp_path)["default"]
    table, sentences = difference_table("", conditions, conditions[0], metrics("music/si_sdr_db", "music/mel_distance"))
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
    (sentence,) = sentences
    for value in ("4 seeds", "2 comparisons", "2.1 times"):  # t(1 - 0.05 / 4, 3) / sqrt(4)
        assert value in sentence


def test_tests_over_seeds_and_over_clips_are_corrected_separately(tmp_path: Path) -> None:
    def strategies(seed: int) -> Sequence[str]:
        return ["weighted_sum", "a", "b", "c"][: 4 if seed == 0 else 3]

    for seed in (0, 1):
        for place, strategy in enumerate(strategies(seed)):
            result = run_result(strategy, "default", seed, place, clips=dict.fromkeys(CLIPS, "music"))
            write_run(tmp_path, result, seconds=0.1)
    conditions = grid(tmp_path)["default"]
    table, sentences = difference_table("", conditions, conditions[0], metrics("music/si_sdr_db"))
    a, _, c = (row.entries[0] for row in table.bodies[0])
    assert a.detail.startswith("t, 2 seeds, p = ")
    assert c.detail == "Wilcoxon, 4 clips, p = 0.125"  # the only test of its kind: not corrected
    assert "±" in a.text
    assert "±" not in c.text
    over_seeds, over_clips = sentences
    assert "2 seeds, 2 comparisons" in over_seeds
    assert "4 clips, 1 comparison." in over_clips
    assert "0.12, so no difference can pass at 5 %" in over_clips


def test_loss_weights_are_compared_with_and_without_balancing(tmp_path: Path) -> None:
    settings = {"default": {}, "adversarial-x100": {"adversarial": 100.0}, "adversarial-x10": {"adversarial": 10.0}}
    make_ablation(tmp_path, settings=settings, seconds=0.1)
    for seed in (0, 1):
        fail(tmp_path / "runs" / f"encodec.adversarial-x100.seed{seed}", "NaN")
    table = weights_table(grid(tmp_path), METRICS)
    assert table is not None
    assert [row.name for row in table.bodies[0]] == ["default", "adversarial-x10", "adversarial-x100"]
    assert table.head == ["weights", *["with balancing (encodec)", "without (weighted_sum)"] * 4]
    columns = ["music: SI-SDR, dB ↑", "music: mel distance ↓", "speech: SI-SDR, dB ↑", "speech: PESQ ↑"]
    assert table.spans == [("", 1), *((column, 2) for column in columns)]  # ViSQOL was not measured
    marks = [entry.mark for entry in table.bodies[0][0].entries]
    assert marks[::2] == [""] * 4
    assert "best" in marks
    assert [entry.text for entry in table.bodies[0][2].entries][::2] == ["failed"] * 4
    assert [entry.mark for entry in table.bodies[0][2].entries] == [""] * 8


@pytest.mark.parametrize(
    ("strategies", "settings"),
    [(STRATEGIES, DEFAULT), (("encodec", "pcgrad"), SETTINGS), (("weighted_sum",), SETTINGS)],
)
def test_the_table_of_weights_needs_two_settings_with_both_strategies(
    tmp_path: Path, strategies: tuple[str, ...], settings: dict[str, dict[str, float]]
) -> None:
    folder = make_ablation(tmp_path, strategies, (0,), settings, seconds=0.1)
    assert weights_table(grid(folder), METRICS) is None


def test_cost_is_relative_to_the_baseline(whole: Path) -> None:
    table = cost_table(grid(whole), "weighted_sum")
    assert table.head[2] == "ratio to weighted_sum"
    assert texts(table)["weighted_sum"] == ["110.0", "1.000", DASH, "0"]
    assert texts(table)["encodec"] == ["100.0", "0.909", "512", "0"]
    assert {row[1] for row in texts(cost_table(grid(whole), "absent")).values()} == {DASH}
