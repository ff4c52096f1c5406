"""The check for machines with a GPU runs on a CPU, as a rehearsal; and the audit counts waits without a GPU."""

import json
from pathlib import Path

import pytest

from scripts.bench import audit, gpu_check
from scripts.bench.gpu_sections import Check


def test_sections_run_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    gpu_check.main(["--device", "cpu", "--tiny", "--only", "coding", "nccl", "--json", str(path)])
    found = json.loads(path.read_text())["found"]
    assert set(found) == {"coding/1 signals of 1 s", "coding/stream on cpu", "nccl"}
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.long
def test_steps_of_compiled_networks_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_check.main(["--device", "cpu", "--tiny", "--only", "compiled"])
    printed = capsys.readouterr().out
    assert "FAILED" not in printed
    assert "compiled/starter/default " in printed


def test_a_section_that_fails_is_reported_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(check: Check) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(gpu_check, "SECTIONS", {"a": (broken, 1), "b": (lambda check: check.note("b", "fine"), 1)})
    gpu_check.main(["--device", "cpu", "--tiny"])
    printed = capsys.readouterr().out
    assert "FAILED: RuntimeError: no kernel" in printed
    assert "fine" in printed


def test_a_section_without_time_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "SECTIONS", {"a": (lambda check: check.note("a", "ran"), 60)})
    gpu_check.main(["--device", "cpu", "--minutes", "0.5"])
    assert "left out" in capsys.readouterr().out


def test_the_audit_prints_waits_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    audit.main(["starter", "--steps", "2", "data.segment_seconds=0.2", "codec.quantizer.kmeans_iterations=1"])
    printed = capsys.readouterr().out
    step = printed.split("step 1: ")[1].split("validation")[0]
    assert step.split("launches, ")[1].startswith("2 waits")
    assert "skipped_steps.py" in step
