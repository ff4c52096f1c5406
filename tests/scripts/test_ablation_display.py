"""The progress display of an ablation, on simulated run folders."""

import io
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from codec.training import TrainingConfig
from scripts.ablation.display import GridDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def log_step(runs: Path, name: str, step: int, seconds: float = 1.0) -> None:
    (runs / name).mkdir(parents=True, exist_ok=True)
    with open(runs / name / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"split": "train", "step": step, "seconds": seconds}) + "\n")


def finish(runs: Path, name: str, failure: str | None = None) -> None:
    (runs / name).mkdir(parents=True, exist_ok=True)
    (runs / name / "result.json").write_text(json.dumps({"failure": failure, "steps": 10, "seconds": 61}))


def test_a_line_is_printed_per_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    finish(tmp_path, "a")
    log_step(tmp_path, "b", 2)  # progress of an earlier session does not count as speed
    stream = io.StringIO()
    display = GridDisplay(tmp_path, ["a", "b", "c", "d"], TrainingConfig(max_steps=10), stream)
    display.refresh()
    assert stream.getvalue() == ""
    assert display.seconds_left() is None
    now[0] = 13.0
    finish(tmp_path, "b")
    log_step(tmp_path, "c", 5)
    display.refresh()
    # 0.8 and 0.5 runs took 13 s; 1.5 runs are left.
    assert display.seconds_left() == pytest.approx(15)
    assert stream.getvalue() == "b  10 steps in 1:01\n2/4 runs  0:15 left\n"
    with open(tmp_path / "c" / "metrics.jsonl", "a") as file:
        file.write('{"split": "tra')  # an incomplete line
    finish(tmp_path, "d", "lost in 3 steps")
    display.refresh()
    assert stream.getvalue().splitlines()[2] == "d  failed: lost in 3 steps"


def test_a_terminal_shows_the_active_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    log_step(tmp_path, "inactive", 2)
    os.utime(tmp_path / "inactive" / "metrics.jsonl", (1, 1))
    stream = Terminal()
    display = GridDisplay(tmp_path, ["inactive", "training", "scored"], TrainingConfig(max_minutes=1), stream)
    log_step(tmp_path, "training", 3, seconds=30)
    log_step(tmp_path, "scored", 9, seconds=61)
    with display.shown():
        pass
    text = stream.getvalue()
    assert "0/3 runs" in text
    assert re.search(r"training.*step 3", text)
    assert re.search(r"scored.*scoring", text)
    assert "inactive" not in text


def test_the_timer_refreshes_the_display_and_is_stopped_at_the_end(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = GridDisplay(tmp_path, ["a"], TrainingConfig(max_steps=10), stream)
    before = signal.getsignal(signal.SIGALRM)
    with display.shown():
        finish(tmp_path, "a")
        deadline = time.monotonic() + 60  # the timer's interval is 1 s
        while not stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stream.getvalue() == "a  10 steps in 1:01\n1/1 runs\n"
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
