"""The log of a run: complete lines of valid JSON after any interruption, plain log files, and calls to sinks."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codec.training.logging import RunLogger


class MemorySink:
    """A sink from outside the packages that records its calls."""

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


def test_metrics_are_written_at_once_as_flat_lines(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path / "run")
    logger.metrics("train", 10, 2.34567, {"loss/l1": torch.tensor(0.5), "num_codebooks": 8})
    assert lines_of(tmp_path / "run") == [
        {"split": "train", "step": 10, "seconds": 2.346, "loss/l1": 0.5, "num_codebooks": 8}
    ]
    logger.metrics("validation", 10, 3, {"speech/mel_distance": 1.25})
    assert lines_of(tmp_path / "run")[1]["speech/mel_distance"] == 1.25
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


def test_a_metric_cannot_be_named_step(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    with pytest.raises(ValueError, match="must differ from split, step, seconds, got step"):
        logger.metrics("train", 1, 0.0, {"step": 3.0})
    logger.close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_resumed_log_equals_an_uninterrupted_one(tmp_path: Path) -> None:
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


def test_truncation_works_within_one_session(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    for step in (1, 2, 3):
        logger.metrics("train", step, 0.0, {})
    assert logger.truncate_after(1) == 2
    logger.metrics("train", 2, 0.0, {"again": 1})
    logger.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]
    assert lines_of(tmp_path)[1]["again"] == 1


@pytest.mark.parametrize("length", range(1, 40, 3))
def test_an_incomplete_line_does_not_damage_others(tmp_path: Path, length: int) -> None:
    logged(tmp_path, range(2))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole + whole[: min(length, len(whole.splitlines()[0]) - 1)])
    logged(tmp_path, range(2, 4))
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1, 2, 3]


def test_a_record_without_its_newline_is_kept(tmp_path: Path) -> None:
    logged(tmp_path, range(2))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    logged(tmp_path, range(2, 3))
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1, 2]


def test_truncation_removes_lines_that_are_not_records(tmp_path: Path) -> None:
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


def test_messages_and_validations_are_printed_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("first [bold]session[/]", "second"):
        logger = RunLogger(tmp_path)
        logger.message(text)
        logger.metrics("validation", 5, 1.0, {"speech/mel_distance": 1.23456, "codebook/0/bits": 3.0})
        logger.close()
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line[20:] for line in log] == [
        "first [bold]session[/]",
        "validation at step 5:  speech: mel distance 1.235",
        "second",
        "validation at step 5:  speech: mel distance 1.235",
    ]
    assert capsys.readouterr().out.splitlines() == [line[20:] for line in log]


def test_skipped_files_are_listed_once(tmp_path: Path) -> None:
    for path in ("a.wav", "odd\nna\x1bme\udcff.wav"):
        logger = RunLogger(tmp_path)
        logger.skip_file("a.wav", "cannot be decoded")
        logger.skip_file(path, "cannot be decoded")
        logger.close()
    lines = (tmp_path / "skipped_files.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["a.wav\tcannot be decoded", "odd\\nna\\x1bme\\xff.wav\tcannot be decoded"]
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line[20:] for line in log] == [
        "skipped file 1: a.wav: cannot be decoded",
        "skipped file 2: odd\\nna\\x1bme\\xff.wav: cannot be decoded",
    ]


def test_only_the_first_and_every_100th_skipped_file_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = RunLogger(tmp_path)
    for number in range(250):
        logger.skip_file(f"{number}.wav", "cannot be decoded")
    logger.close()
    assert re.findall(r"skipped file (\d+)", capsys.readouterr().out) == ["1", "2", "3", "100", "200"]
    assert len((tmp_path / "skipped_files.txt").read_text(encoding="utf-8").splitlines()) == 250


def test_a_process_that_is_not_the_main_one_writes_only_skipped_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged(tmp_path, range(1))
    capsys.readouterr()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    sink = MemorySink()
    logger = RunLogger(tmp_path, [sink], is_main=False)
    logger.metrics("train", 2, 0.0, {"a": 1.0})
    logger.progress(2, 0.0)
    logger.message("text")
    logger.audio("clip", 2, torch.zeros(1, 9), 8000)
    assert logger.truncate_after(0) == 0
    logger.skip_file("a.wav", "cannot be decoded")
    logger.close()
    assert sink.calls == []
    assert capsys.readouterr().out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "skipped_files.txt", "status.json"}
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_only_sinks_that_were_opened_are_closed(tmp_path: Path) -> None:
    """The error of a sink that does not open must not be hidden by one of its `close`."""

    class Broken(MemorySink):
        def open(self, folder: Path, config: Mapping[str, Any]) -> None:
            raise RuntimeError("not logged in")

    before, broken, after = MemorySink(), Broken(), MemorySink()
    logger = RunLogger(tmp_path, [before, broken, after])
    with pytest.raises(RuntimeError, match="not logged in"):
        logger.message("text")
    logger.close()
    assert [call[0] for call in before.calls] == ["open", "close"]
    assert broken.calls == after.calls == []


def test_audio_is_clipped_and_sent_to_sinks(tmp_path: Path) -> None:
    sink = MemorySink()
    logger = RunLogger(tmp_path, [sink])
    logger.audio("clip", 3, torch.tensor([[0.5, 2.0, -3.0]], requires_grad=True), 24000)
    with pytest.raises(ValueError, match=r"expected audio of shape \[C, T\], got \[3\]"):
        logger.audio("clip", 3, torch.zeros(3), 24000)
    logger.close()
    _, name, step, audio, sample_rate = sink.calls[1]
    assert (name, step, sample_rate) == ("clip", 3, 24000)
    assert audio.tolist() == [[0.5, 1.0, -1.0]]
