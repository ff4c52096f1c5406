"""The report is updated during a run, and the summary at the end lists scores, files and next commands."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import CHROMIUM, chromium
from codec.training import Trainer
from codec.training.logging import RunLogger
from codec.training.logging.live_report import LiveReport
from scripts.train import run
from tiny_command import TINY, composed
from tiny_run import tidied

REFRESH = ("location.reload()", 'http-equiv="refresh"', "Training is running")


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def refreshes(page: Path) -> bool:
    text = page.read_text(encoding="utf-8")
    found = {mark in text for mark in REFRESH}
    assert len(found) == 1
    return found.pop()


def test_the_report_reloads_itself_during_a_run_and_the_summary_lists_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a run"
    pages: list[tuple[int, bool, int]] = []
    step = Trainer.train_step

    def record(trainer: Trainer, *args: object) -> object:
        page = folder / "report.html"
        pages.append((trainer.step, refreshes(page), page.read_text(encoding="utf-8").count("<audio")))
        return step(trainer, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", record)
    settings = ("trainer.validate_every=2", "trainer.max_steps=2", "validation.samples_per_group=1")
    run(composed("train", *TINY, *settings, "name='a run'", f"runs_folder={tmp_path}"))
    assert [page[:2] for page in pages] == [(0, True), (1, True)]
    assert all(sounds >= 2 for _, _, sounds in pages)  # to be heard before the first step
    assert not refreshes(folder / "report.html")

    out = capsys.readouterr().out
    assert f"{folder / 'report.html'} (updated every 2 steps)\n" in out
    summary = (folder / "summary.txt").read_text(encoding="utf-8")
    assert out.endswith(f"\n{summary}")
    assert re.match(r"Trained for 2 steps in \d+ s\.\n", summary)
    assert re.search(r"\nHeld-out clips at 2.4 kbps +start +now +change\n", summary)
    assert re.search(r"\n  mel distance, speech +\d\S+ +\d\S+ +[+\N{MINUS SIGN}]?\d+%\n", summary)
    for place in ("model.safetensors", "checkpoints", "samples", "report.html"):
        assert str(folder / place) in summary
    for command in (
        f".venv/bin/codec encode in.wav --model '{folder}'\n",
        f".venv/bin/codec evaluate --model '{folder}' --data data/clips/held_out\n",
        f"bash scripts/train.sh name=tuned init_from='{folder}' data=folder data.root=/path/to/audio ",
    ):
        assert command in summary


def test_the_report_of_a_stopped_run_does_not_reload_itself(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [LiveReport()])
    logger.metrics("validation", 0, 0.0, {"speech/mel_distance": 2.0})
    assert refreshes(tmp_path / "report.html")
    logger.close()
    assert not refreshes(tmp_path / "report.html")


@pytest.mark.parametrize("interval", [0.0, 1000.0])
def test_updates_are_at_least_the_interval_apart(tmp_path: Path, interval: float) -> None:
    logger = RunLogger(tmp_path, [LiveReport(interval)])
    pages = []
    for step in (0, 1):
        logger.metrics("validation", step, 0.0, {"speech/mel_distance": 2.0 - step})
        pages.append((tmp_path / "report.html").read_bytes())
    assert (pages[0] == pages[1]) == (interval > 0)
    logger.close()
    assert (tmp_path / "report.html").read_bytes() != pages[1]


def test_a_training_record_updates_the_report_after_the_longest_interval(tmp_path: Path) -> None:
    """So the page of a run with rare validations shows that it is alive. The list of all runs is written with it."""
    pages = []
    for interval in (0.0, 1000.0):
        logger = RunLogger(tmp_path / "run", [LiveReport(max_interval_seconds=interval)])
        logger.metrics("validation", 0, 0.0, {"speech/mel_distance": 2.0})
        (tmp_path / "run" / "report.html").unlink()
        logger.metrics("train", 7, 0.0, {"loss/l1": 2.0})
        pages.append((tmp_path / "run" / "report.html").exists())
        logger.close()
    assert pages == [True, False]
    assert "run/report.html" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_run_that_failed_to_start_has_no_report(tmp_path: Path) -> None:
    RunLogger(tmp_path, [LiveReport()]).close()
    assert not (tmp_path / "report.html").exists()


def test_a_report_whose_log_was_never_opened_is_closed() -> None:
    report = LiveReport()
    report.metrics("validation", 0, {"speech/mel_distance": 2.0})
    report.close()


def test_a_report_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "report.html").mkdir()
    logger = RunLogger(tmp_path, [LiveReport()])
    logger.metrics("validation", 0, 0.0, {"speech/mel_distance": 2.0})
    logger.close()
    assert caplog.text.count("report.html could not be written") == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_the_report_does_not_reload_while_audio_plays(tmp_path: Path) -> None:
    """The reload interval is shortened to two seconds."""
    from codec.audio import write_audio
    from codec.evaluation.report.page import write_report
    from tiny_run import tones

    for kind in ("reference", "step0000001"):
        write_audio(tmp_path / "samples" / f"speech.{kind}.wav", tones(1, 80_000)[0], 8000)
    page = write_report(tmp_path, running=True)
    page.write_text(page.read_text(encoding="utf-8").replace("15e3", "2e3"), encoding="utf-8")
    with chromium(tmp_path / "profile") as browser:
        browser.open(page)
        browser.run("window.mark = 1; document.querySelector('audio').play()")
        browser.run("new Promise(done => setTimeout(done, 3000))")
        assert browser.run("window.mark") == 1
        browser.run("document.querySelector('audio').pause()")
        browser.wait("window.mark === undefined")
        assert browser.problems == []
