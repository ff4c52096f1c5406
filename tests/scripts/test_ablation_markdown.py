"""The tables of an ablation as Markdown: every cell, bold marks, and what a table cannot hold as it is."""

from pathlib import Path

import numpy as np
import pytest

from ablation_inputs import fail, make_ablation
from scripts.ablation.report import write_ablation_report
from scripts.ablation.report.markdown import markdown
from scripts.ablation.report.runs import conditions_by_weights, read_runs
from scripts.ablation.report.shares import share_table
from scripts.ablation.report.tables import Entry, Row, Table


def cells(line: str) -> list[str]:
    assert line.startswith("| ")
    assert line.endswith(" |")
    return line[2:-2].split(" | ")


def test_every_cell_is_in_its_place() -> None:
    rows = [
        Row("a", "", [Entry("1.0", mark="best"), Entry("2.0", detail="p = 0.010: worse", mark="worse")]),
        Row("b|c", "1 of 2 seeds failed: no\nnumber", [Entry("failed: x", mark="failed", span=2)]),
    ]
    table = Table("speech", ["strategy", "PESQ", "STOI"], [rows[:1], rows[1:]], [("", 1), ("at 6 kbit/s", 2)])
    caption, blank, *lines = markdown([table]).splitlines()
    assert (caption, blank) == ("**speech**", "")
    assert [cells(line) for line in lines] == [
        ["strategy", "at 6 kbit/s: PESQ", "at 6 kbit/s: STOI"],
        ["---", "---:", "---:"],
        ["a", "**1.0**", "**2.0, p = 0.010: worse**"],
        ["b&#124;c (1 of 2 seeds failed: no number)", "failed: x", ""],
    ]


def test_shares_are_means_over_steps_and_seeds(tmp_path: Path) -> None:
    folder = make_ablation(tmp_path, settings={"default": {}}, seconds=0.1)
    (conditions,) = conditions_by_weights(read_runs(folder)[0], "weighted_sum").values()
    table = share_table("shares", conditions)
    assert table is not None
    assert table.head == ["strategy", "l1, %", "adversarial, %"]
    # Seed 0 has 0.25 and 0.75 at all steps, seed 1 has 0.35 and 0.65.
    for row in table.bodies[0]:
        assert [entry.sort for entry in row.entries] == pytest.approx([30.0, 70.0])
        assert [entry.text for entry in row.entries] == ["30", "70"]
    for path in folder.glob("runs/*/metrics.jsonl"):
        path.write_text("")
    assert share_table("shares", conditions) is None


def test_the_page_has_its_tables_as_markdown(tmp_path: Path) -> None:
    folder = make_ablation(tmp_path, seconds=0.1)
    fail(folder / "runs" / "pcgrad.default.seed0", "it diverged")
    write_ablation_report(folder)
    text = (folder / "ablation.md").read_text(encoding="utf-8")
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == text.count("**\n\n") == 2 * (3 + 2 + 1) + 1 + 1  # scores, differences, shares; weights, costs
    assert "1 of 2 seeds failed: it diverged" in text
    for table in tables:
        assert len({line.count(" | ") for line in table.splitlines()}) == 1
    assert np.isfinite([float(cell) for cell in cells(tables[5].splitlines()[2])[1:]]).all()
