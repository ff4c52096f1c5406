"""The list of all runs, and the state of a run as the pages show it."""

import json
import re
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from codec.evaluation.report.index import write_index
from codec.evaluation.report.records import read_last_record
from codec.evaluation.report.status import read_status
from report_page import HOSTILE, Page

MINUS = "\N{MINUS SIGN}"


def make_run(folder: Path, scores: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    if scores is not None:
        record = {"split": "validation", "step": 30, "seconds": 90.0, **scores}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    if status is not None:
        (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    (folder / "report.html").write_text("", encoding="utf-8")
    return folder


def test_all_runs_are_listed_with_state_scores_and_links(tmp_path: Path) -> None:
    now = time.time()
    status = {"state": "running", "updated": now, "step": 40, "total_steps": 4000, "bandwidth_kbps": 6.0}
    status |= {"experiment": "speech"}
    make_run(tmp_path / "new", {"music/mel_distance": 0.5, "speech/si_sdr_db": -1.5, "speech/pesq": 3.0}, status)
    old = make_run(
        tmp_path / "old", {"speech/mel_distance": 0.25, "all/l1_loss": 3.0}, {"state": "failed", "updated": 5}
    )
    (old / "report.html").unlink()
    (old / "config.yaml").write_text("trainer: {max_steps: 60}\nvalidation: {bandwidth_kbps: 1.5}\n", encoding="utf-8")
    make_run(tmp_path / "killed", None, {"state": "running", "updated": now - 7200})
    (tmp_path / "ablations" / "grid" / "runs" / "a").mkdir(parents=True)
    (tmp_path / "ablations" / "grid" / "runs" / "a" / "result.json").touch()
    (tmp_path / "ablations" / "grid" / "ablation.html").touch()
    page = Page(write_index(tmp_path))
    order = [tag.get("data-sort") for name, tag in page.elements if name == "th" and tag.get("scope") == "row"]
    assert order == ["new", "killed", "old", None]  # by the last sign of life; then the ablation
    links = [tag["href"] for name, tag in page.elements if name == "a"]
    assert links == ["new/report.html", "killed/report.html", "ablations/grid/ablation.html"]
    assert re.findall(r"<button[^>]*>([^<]*)<", page.source)[1:] == [
        "experiment",
        "state",
        "last alive",
        "steps",
        "kbit/s",
        "speech: PESQ ↑",
        "music: mel distance ↓",
        "speech: mel distance ↓",
        "speech: SI-SDR, dB ↑",
    ]
    for part in (f"{MINUS}1.50", "0.5000", "0.2500", "40 / 4,000", "30 / 60", ">6<", ">1.5<", ">speech<"):
        assert part in (page.source if part[0] == ">" else page.text)
    assert "loss" not in page.text
    assert re.findall(r'class="state \w+">(\w+)<', page.source) == ["running", "running", "failed"]


def test_any_name_of_a_run_is_escaped_and_its_link_leads_to_its_report(tmp_path: Path) -> None:
    names = [HOSTILE.replace("/", "|"), "100% #1?", "\udce9t\udce9"]
    for name in names:
        make_run(tmp_path / name, {"speech/mel_distance": 1.0})
    page = Page(write_index(tmp_path))
    links = [str(tag["href"]) for name, tag in page.elements if name == "a"]
    folders = {Path(unquote(link, errors="surrogateescape")).parent.name for link in links}
    assert folders == set(names)
    assert "alert('" not in page.source


@pytest.mark.parametrize("status", ["", "[]", "{", '{"state": 3, "updated": "now", "step": null, "progress": NaN}'])
def test_a_corrupt_status_is_as_good_as_none(tmp_path: Path, status: str) -> None:
    run = make_run(tmp_path / "run", {"speech/mel_distance": 1.0})
    (run / "status.json").write_text(status, encoding="utf-8")
    (run / "config.yaml").write_text("a: [", encoding="utf-8")
    found = read_status(run, running=True)
    assert (found.state, found.progress, found.bandwidth_kbps) == ("running", "30 steps", None)
    assert ">1.0000<" in Page(write_index(tmp_path)).source


def test_the_state_of_a_run_without_status(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"speech/mel_distance": 1.0})
    assert [read_status(run, running).state for running in (None, True, False)] == ["unknown", "running", "stopped"]
    (run / "summary.txt").touch()
    assert read_status(run).state == "finished"
    (run / "config.yaml").write_text("trainer: {max_minutes: 3}\n", encoding="utf-8")
    assert read_status(run).progress == "30 steps, 50 %"
    assert read_status(run).alive_at == (run / "metrics.jsonl").stat().st_mtime


def test_the_last_record_is_found_behind_many_others(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = ['{"split": "validation", "step": 1}', '{"split": "validation", "step": 2, "é": 1}']
    lines += [json.dumps({"split": "train", "step": step, "filler": "é" * 500}) for step in range(3, 200)]
    path.write_text("\n".join(lines) + '\n{"split": "validation", "st', encoding="utf-8")
    assert read_last_record(path, "validation") == {"split": "validation", "step": 2, "é": 1}
    assert (read_last_record(path) or {})["step"] == 199
    assert read_last_record(path, "test") is None
    assert read_last_record(tmp_path / "absent") is None


def test_concurrent_updates_leave_a_complete_page(tmp_path: Path) -> None:
    for index in range(3):
        make_run(tmp_path / f"run{index}", {"speech/mel_distance": 1.0})
    broken: list[str] = []

    def update() -> None:
        for _ in range(5):
            text = write_index(tmp_path).read_text(encoding="utf-8")
            if not text.endswith("</html>") or text.count('scope="row"') != 3:
                broken.append(text)

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "run0", "run1", "run2"]


def test_a_folder_without_runs_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert "There are no runs here yet." in Page(write_index(tmp_path)).text
