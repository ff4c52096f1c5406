"""Progress on the console: a bar on a terminal, plain lines elsewhere, and the remaining time."""

import io
import os
from pathlib import Path

import pytest

from codec.training.logging import ProgressDisplay, RunLogger


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_output_is_one_line_per_interval_without_control_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    logger = RunLogger(tmp_path, display=ProgressDisplay(total_steps=100, stream=stream))
    for step in range(1, 21):
        logger.progress(step, step * 2.0)
        if step % 10 == 0:
            values = {"loss/l1": 0.0123456, "loss/mel": 2.0, "norm/l1": 9.0, "audio_seconds_per_second": 38.06}
            values |= {"seconds_per_step": 0.10511, "lr": 3e-4, "discriminator/loss": 1.984, "discriminator/real": 1.0}
            logger.metrics("train", step, step * 2.0, values)
            logger.saved(step, best=step == 10)
    logger.close()
    assert stream.getvalue().splitlines() == [
        "step 10/100  10%  3:00 left  0.105 s/step  38.1x real time  lr 0.0003  l1 0.01235  mel 2  discriminator 1.984",
        "step 20/100  20%  2:40 left  0.105 s/step  38.1x real time  lr 0.0003  l1 0.01235  mel 2  discriminator 1.984"
        "  saved 10  best 10",
    ]


def test_a_terminal_gets_a_bar_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    display = ProgressDisplay(total_steps=4, stream=stream)
    display.advance(1, 1.0)
    display.print("a [red]message[/]")
    display.train(2, 2.0, {"loss/l1": 0.25, "audio_seconds_per_second": 3.0})
    display.close()
    display.close()
    shown = stream.getvalue()
    assert "\x1b[" in shown
    assert shown.count("a [red]message[/]") == 1
    for fact in ("step 2/4", "50%", "0:02 left", "3x real time", "l1 0.25"):
        assert fact in shown


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    display = ProgressDisplay(stream=stream)
    display.train(7, 1.0, {"loss/l1": 0.25})
    display.close()
    assert stream.getvalue() == "step 7  l1 0.25\n"


def test_the_remaining_time_is_that_of_the_nearer_limit() -> None:
    display = ProgressDisplay(total_steps=1000, total_seconds=5000, stream=io.StringIO())
    # The previous session took 10 s a step, this one takes 2 s; only this one counts.
    display.advance(100, 1000.0)
    assert display.seconds_left() == 4000
    display.advance(150, 1100.0)
    assert display.seconds_left() == 850 * 2
    display.advance(1001, 5100.0)
    assert display.seconds_left() == 0
    assert ProgressDisplay(stream=io.StringIO()).seconds_left() is None


def test_the_remaining_time_after_a_rollback_is_that_of_the_new_steps() -> None:
    display = ProgressDisplay(total_steps=100, stream=io.StringIO())
    for step, seconds in ((1, 1.0), (50, 50.0), (11, 60.0), (12, 61.0)):
        display.advance(step, seconds)
    assert display.seconds_left() == 88


def test_a_phase_is_announced_and_its_time_is_estimated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("codec.training.logging.run_logger.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    logger = RunLogger(tmp_path, display=ProgressDisplay(stream=stream))
    for seconds in (2.0, 0.01):
        with logger.phase("k-means", "16 codebooks", 16) as advance:
            for _ in range(16):
                now[0] += seconds
                advance()
    logger.close()
    assert stream.getvalue().splitlines() == [
        "k-means: 16 codebooks",
        "k-means: about 0:30 left",
        "k-means: 16 codebooks, about 0:32",
    ]


def test_a_terminal_shows_a_bar_for_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    display = ProgressDisplay(stream=stream)
    display.phase("k-means", 4, 16, 10.0)
    display.close()
    assert "k-means  0:30 left" in stream.getvalue()


def test_a_closed_pipe_ends_the_output_and_not_the_run(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        logger = RunLogger(tmp_path, display=ProgressDisplay(stream=stream))
        for step in (1, 2):
            logger.metrics("train", step, 1.0, {"loss/l1": 1.0})
            logger.message(f"message {step}")
        logger.close()
    assert "message 2" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert len((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
