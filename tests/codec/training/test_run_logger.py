"""The record of a run: whole lines of valid JSON whatever happens, quiet log files, and sinks that read back."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from codec.training.logging.progress_bar import ProgressDisplay
from codec.training.logging.run_logger import RunLogger, TensorBoardSink, WandbSink

LOGGER_CONFIGS = Path(__file__).parents[3] / "configs" / "logger"


class MemorySink:
    """Remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.calls.append(("open", folder, dict(config)))

    def rewind(self, step: int) -> None:
        self.calls.append(("rewind", step))

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(("metrics", split, step, dict(values)))

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        self.calls.append(("audio", name, step, audio, sample_rate))

    def close(self) -> None:
        self.calls.append(("close",))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines_of(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def logged(folder: Path, steps: range) -> None:
    logger = RunLogger(folder)
    for step in steps:
        logger.metrics("train", step, step / 10, {"loss/l1": 1 / (step + 1)})
    logger.close()


def test_metrics_are_flat_lines_flushed_at_once(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path / "run")
    logger.metrics("train", 10, 2.34567, {"loss/l1": torch.tensor(0.5), "num_codebooks": 8})
    assert lines_of(tmp_path / "run") == [
        {"split": "train", "step": 10, "seconds": 2.346, "loss/l1": 0.5, "num_codebooks": 8}
    ]
    logger.metrics("validation", 10, 3, {"all/mel_distance": 1.25})
    assert lines_of(tmp_path / "run")[1]["all/mel_distance"] == 1.25
    logger.close()
    logger.close()


def test_non_finite_values_are_null_in_the_file_and_absent_in_sinks(tmp_path: Path) -> None:
    sink = MemorySink()
    logger = RunLogger(tmp_path, [sink], config={"seed": 1})
    inf = float("inf")
    logger.metrics("train", 1, 0.0, {"a": float("nan"), "b": inf, "c": torch.tensor(-inf), "d": 2.0})
    logger.close()
    assert lines_of(tmp_path) == [
        {"split": "train", "step": 1, "seconds": 0.0, "a": None, "b": None, "c": None, "d": 2.0}
    ]
    assert sink.calls == [("open", tmp_path, {"seed": 1}), ("metrics", "train", 1, {"d": 2.0}), ("close",)]


def test_a_value_cannot_overwrite_the_step(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    with pytest.raises(ValueError, match="must differ from split, step, seconds, got step"):
        logger.metrics("train", 1, 0.0, {"step": 3.0})
    logger.close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_resume_equals_never_having_stopped(tmp_path: Path) -> None:
    logged(tmp_path / "straight", range(10))
    logged(tmp_path / "resumed", range(8))
    sink = MemorySink()
    logger = RunLogger(tmp_path / "resumed", [sink])
    assert logger.truncate_after(4) == 3
    assert ("rewind", 4) in sink.calls
    logger.close()
    logged(tmp_path / "resumed", range(5, 10))
    straight, resumed = (tmp_path / name / "metrics.jsonl" for name in ("straight", "resumed"))
    assert resumed.read_bytes() == straight.read_bytes()


def test_truncation_also_works_between_lines_of_one_session(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    for step in (1, 2, 3):
        logger.metrics("train", step, 0.0, {})
    assert logger.truncate_after(1) == 2
    logger.metrics("train", 2, 0.0, {"again": 1})
    logger.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]
    assert lines_of(tmp_path)[1]["again"] == 1


@pytest.mark.parametrize("length", range(1, 40, 3))
def test_a_line_cut_anywhere_costs_at_most_itself(tmp_path: Path, length: int) -> None:
    logged(tmp_path, range(2))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole + whole[: min(length, len(whole.splitlines()[0]) - 1)])
    logged(tmp_path, range(2, 4))
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1, 2, 3]


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path: Path) -> None:
    logged(tmp_path, range(2))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    logged(tmp_path, range(2, 3))
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1, 2]


def test_truncation_drops_what_is_not_a_record(tmp_path: Path) -> None:
    logged(tmp_path, range(2))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"split": "train"}\n3\n')
    logger = RunLogger(tmp_path)
    assert logger.truncate_after(100) == 4
    logger.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1]


def test_truncation_of_an_empty_run(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    assert logger.truncate_after(0) == 0
    logger.close()


def test_messages_and_validations_reach_console_and_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("first [bold]session[/]", "second"):
        logger = RunLogger(tmp_path)
        logger.message(text)
        logger.metrics("validation", 5, 1.0, {"all/mel_distance": 1.23456, "codebook/0/bits": 3.0})
        logger.close()
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line[20:] for line in log] == [
        "first [bold]session[/]",
        "validation at step 5:  mel distance 1.235",
        "second",
        "validation at step 5:  mel distance 1.235",
    ]
    assert capsys.readouterr().out.splitlines() == [line[20:] for line in log]


def test_files_set_aside_are_listed_once(tmp_path: Path) -> None:
    for path in ("a.wav", "odd\nna\x1bme\udcff.wav"):
        logger = RunLogger(tmp_path)
        logger.skip_file("a.wav", "did not decode")
        logger.skip_file(path, "did not decode")
        logger.close()
    lines = (tmp_path / "skipped_files.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["a.wav\tdid not decode", "odd na\\x1bme\\udcff.wav\tdid not decode"]
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert log.count("set aside") == 2
    assert "set aside (2 so far): odd na\\x1bme\\udcff.wav: did not decode" in log


def test_many_files_set_aside_do_not_flood_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(tmp_path)
    for number in range(250):
        logger.skip_file(f"{number}.wav", "did not decode")
    logger.close()
    said = [line for line in capsys.readouterr().out.splitlines() if "set aside" in line]
    assert [line.split()[2].strip("(") for line in said] == ["1", "2", "3", "100", "200"]
    assert len((tmp_path / "skipped_files.txt").read_text(encoding="utf-8").splitlines()) == 250


def test_audio_is_clipped_and_handed_on(tmp_path: Path) -> None:
    sink = MemorySink()
    logger = RunLogger(tmp_path, [sink])
    logger.audio("clip", 3, torch.tensor([[0.5, 2.0, -3.0]], requires_grad=True), 24000)
    with pytest.raises(ValueError, match=r"audio \[C, T\] is wanted, got \[3\]"):
        logger.audio("clip", 3, torch.zeros(3), 24000)
    logger.close()
    _, name, step, audio, sample_rate = sink.calls[1]
    assert (name, step, sample_rate) == ("clip", 3, 24000)
    assert audio.tolist() == [[0.5, 1.0, -1.0]]


def test_plain_output_is_one_line_an_interval_without_control_codes(
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


def test_time_left_is_that_of_the_nearer_budget() -> None:
    display = ProgressDisplay(total_steps=1000, total_seconds=5000, stream=io.StringIO())
    # The session before needed 10 s a step; this one needs 2 s, and only that counts.
    display.advance(100, 1000.0)
    assert display.seconds_left() == 4000
    display.advance(150, 1100.0)
    assert display.seconds_left() == 850 * 2
    display.advance(1001, 5100.0)
    assert display.seconds_left() == 0
    assert ProgressDisplay(stream=io.StringIO()).seconds_left() is None


def test_the_time_left_of_a_run_that_went_back_is_that_of_its_new_steps() -> None:
    display = ProgressDisplay(total_steps=100, stream=io.StringIO())
    for step, seconds in ((1, 1.0), (50, 50.0), (11, 60.0), (12, 61.0)):
        display.advance(step, seconds)
    assert display.seconds_left() == 88


def test_tensorboard_files_read_back_without_the_steps_that_were_undone(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [TensorBoardSink()])
    for step in (1, 2, 3):
        logger.metrics("train", step, 0.0, {"loss/l1": float(step)})
    logger.truncate_after(1)
    logger.metrics("train", 2, 0.0, {"loss/l1": 20.0})
    logger.audio("clip", 2, torch.rand(2, 100), 8000)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss/l1")] == [(1, 1.0), (2, 20.0)]
    assert events.Audio("audio/clip")[0].sample_rate == 8000


def test_wandb_offline_keeps_one_id_and_stays_in_the_run_folder(tmp_path: Path) -> None:
    for step in (1, 2):
        logger = RunLogger(tmp_path / "run", [WandbSink("project", mode="offline")], config={"seed": 1})
        logger.truncate_after(step)
        logger.metrics("train", step, 0.0, {"loss/l1": 0.5, "bad": float("nan")})
        logger.audio("clip", step, torch.rand(2, 100), 8000)
        logger.close()
    identity = (tmp_path / "run" / "wandb_id.txt").read_text()
    sessions = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}*/*.wandb"))
    assert sessions
    content = b"".join(session.read_bytes() for session in sessions)
    assert content.count(b"train/loss/l1") >= 2
    assert len(list((tmp_path / "run" / "wandb").rglob("clip_*.wav"))) == 2


def test_wandb_mode_is_checked_early() -> None:
    with pytest.raises(ValueError, match="online, offline or disabled is wanted for wandb, got 'off'"):
        WandbSink("project", mode="off")


@pytest.mark.parametrize(("name", "kinds"), [("jsonl", []), ("wandb", [WandbSink]), ("tensorboard", [TensorBoardSink])])
def test_configs_build_their_sinks(name: str, kinds: list[type]) -> None:
    node = yaml.safe_load((LOGGER_CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert [type(sink) for sink in instantiate(node, _convert_="all")["sinks"]] == kinds
