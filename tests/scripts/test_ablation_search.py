"""The search of an ablation: which value wins, what is refused, and the table on the page."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ablation_inputs import make_ablation, run_result
from codec.evaluation import METRICS
from scripts.ablation.grid import grid_runs, run_config
from scripts.ablation.report import write_ablation_report
from scripts.ablation.report.runs import Run, read_runs
from scripts.ablation.report.search import mean_ranks, search_table
from scripts.ablation.search import best_overrides, check_search, search_runs
from tiny_command import ROOT

SEARCH = ("search.setting=optimizer.codec.lr", "search.candidates=[5e-4,0.001,0.002]")
SCORES = ["speech/pesq", "music/mel_distance"]


def ablation(runs_folder: Path, *overrides: str) -> DictConfig:
    settings = (
        f"runs_folder={runs_folder}",
        "name=a",
        "strategies=[weighted_sum,encodec]",
        "metrics=[mel_distance,pesq]",
    )
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("ablate", [*settings, *overrides])


def write(folder: Path, override: str, strategy: str, scores: Mapping[str, float] | None) -> None:
    """The result of a run of the search; None for one that diverged."""
    name = f"{strategy}.search.{override.replace('=', '-')}.seed1000"
    result = run_result(strategy, "default", 1000, 0) | {"run": name, "override": override}
    values = scores or {}
    result["clips"] = {
        f"{group}-0": {
            "group": group,
            "pesq": values.get(f"{group}/pesq"),
            "mel_distance": values.get(f"{group}/mel_distance"),
        }
        for group in ("speech", "music")
        if scores
    }
    if scores is None:
        result |= {"failure": "it diverged", "scores": {}}
    (folder / "search" / name).mkdir(parents=True)
    (folder / "search" / name / "result.json").write_text(json.dumps(result))


def runs(folder: Path) -> list[Run]:
    return read_runs(folder, "search")[0]


def test_ranks_are_averaged_over_scores_with_their_directions(tmp_path: Path) -> None:
    """PESQ 3, 2, 1 has ranks 1, 2, 3; mel distances 0.2, 0.1, 0.1 have ranks 3, 1.5, 1.5."""
    for place, (pesq, mel) in enumerate([(3.0, 0.2), (2.0, 0.1), (1.0, 0.1)]):
        write(tmp_path, f"x={place}", "encodec", {"speech/pesq": pesq, "music/mel_distance": mel})
    assert mean_ranks(runs(tmp_path), SCORES, METRICS) == pytest.approx([2.0, 1.75, 2.25])
    # All scores: two more, of codes, in which the runs are equal.
    assert mean_ranks(runs(tmp_path), None, METRICS) == pytest.approx([2.0, 1.875, 2.125])
    assert mean_ranks(runs(tmp_path), ["speech/pesq"], METRICS) == pytest.approx([1, 2, 3])
    with pytest.raises(ValueError, match=r"search.scores: noise/pesq.*music/mel_distance"):
        mean_ranks(runs(tmp_path), ["noise/pesq"], METRICS)


def test_a_failed_run_is_last_and_without_any_score_all_are_equal(tmp_path: Path) -> None:
    write(tmp_path, "x=0", "encodec", None)
    assert mean_ranks(runs(tmp_path), SCORES, METRICS) == pytest.approx([1])
    write(tmp_path, "x=1", "encodec", {"speech/pesq": 1.0, "music/mel_distance": 9.0})
    assert mean_ranks(runs(tmp_path), SCORES, METRICS) == pytest.approx([2, 1])


def test_the_best_override_is_known_once_all_runs_of_a_strategy_are_finished(tmp_path: Path) -> None:
    cfg = ablation(tmp_path, *SEARCH, f"search.scores=[{','.join(SCORES)}]")
    check_search(cfg)
    overrides = [f"optimizer.codec.lr={rate}" for rate in (0.0005, 0.001, 0.002)]
    assert [run.override for run in search_runs(cfg).values()] == [one for one in overrides for _ in range(2)]
    assert best_overrides(cfg) == {}
    for override, pesq in zip(overrides, (1.0, 3.0, 2.0), strict=True):
        assert best_overrides(cfg) == {}
        write(tmp_path / "a", override, "encodec", {"speech/pesq": pesq, "music/mel_distance": 1.0})
    assert best_overrides(cfg) == {"encodec": overrides[1]}
    for override in overrides:
        write(tmp_path / "a", override, "weighted_sum", None)
    assert best_overrides(cfg) == {"encodec": overrides[1], "weighted_sum": overrides[0]}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        rates = {
            run.strategy: run_config(cfg, run).optimizer.codec.lr
            for run in grid_runs(cfg, best_overrides(cfg)).values()
        }
    assert rates == {"encodec": 0.001, "weighted_sum": 0.0005}


def test_runs_of_the_search_differ_from_those_of_the_grid(tmp_path: Path) -> None:
    cfg = ablation(tmp_path, *SEARCH, "search.max_steps=7", "search.seed=5")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        configs = {name: run_config(cfg, run) for name, run in search_runs(cfg).items()}
    train = configs["encodec.search.optimizer.codec.lr-0.0005.seed5"]
    assert (train.seed, train.trainer.max_steps, train.optimizer.codec.lr) == (5, 7, 5e-4)
    assert train.runs_folder == str(tmp_path / "a" / "search")


def test_without_a_search_there_are_no_runs(tmp_path: Path) -> None:
    cfg = ablation(tmp_path)
    check_search(cfg)
    assert search_runs(cfg) == {} == best_overrides(cfg)
    assert search_table([], None, METRICS) is None


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("search.candidates=[0.1]", ["search.candidates", "two", "0.1"]),
        ("search.candidates=0.1", ["search.candidates", "list", "0.1"]),
        ("search.seed=0", ["search.seed", "not one of seeds", "0"]),
        ("search.seed=-1", ["search.seed", "at least 0", "-1"]),
        ("search.max_steps=0", ["search.max_steps", "at least 1", "0"]),
        ("search.scores=[speech/visqol]", ["search.scores", "speech/visqol"]),
        ("search.scores=[codes_used]", ["search.scores", "codes_used"]),
    ],
)  # fmt: skip
def test_invalid_searches_are_refused(override: str, named: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        check_search(ablation(tmp_path, *SEARCH, override))
    for text in named:
        assert text in str(caught.value)


def test_the_page_has_a_table_of_the_search(tmp_path: Path) -> None:
    folder = make_ablation(tmp_path, strategies=["encodec", "weighted_sum"], seeds=[0])
    for place, rank in enumerate((2.0, 1.0)):
        for strategy in ("encodec", "weighted_sum"):
            write(folder, f"x={place}", strategy, {"speech/pesq": rank, "music/mel_distance": np.nan})
    table = search_table(runs(folder), ["speech/pesq"], METRICS)
    assert table is not None
    assert list(table.head) == ["strategy", "x=0", "x=1"]
    assert [(row.name, [(entry.text, entry.mark) for entry in row.entries]) for row in table.bodies[0]] == [
        (name, [("1.00", "best"), ("2.00", "")]) for name in ("encodec", "weighted_sum")
    ]
    page = write_ablation_report(folder, search_scores=["speech/pesq"]).read_text()
    assert "Mean rank over 1 score;" in page
    assert (folder / "search.csv").read_text().count("weighted_sum.search.") == 2
