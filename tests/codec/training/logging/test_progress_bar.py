"""Progress on the console: a bar on a terminal, plain lines elsewhere, and the remaining time."""

import io
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
            logger.metrics("train", step, step * 2.0, values)
    logger.close()
    assert stream.getvalue().splitlines() == [
        "step 10/100  10%  3:00 left  38.1 audio s/s  l1 0.01235  mel 2",
        "step 20/100  20%  2:40 left  38.1 audio s/s  l1 0.01235  mel 2",
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
    for fact in ("step 2/4", "50%", "0:02 left", "3.0 audio s/s", "l1 0.25"):
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
