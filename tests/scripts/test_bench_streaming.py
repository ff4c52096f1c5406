"""The streaming benchmark: its arithmetic, and that it runs."""

import json
from pathlib import Path

import pytest

from coding_inputs import tiny_codec
from scripts.bench.machine import describe_machine
from scripts.bench.streaming import Row, main, measure


def test_figures_of_a_row() -> None:
    row = Row("encode", 0.5, [0.1, 0.3, 0.1])
    assert row.real_time_factor == pytest.approx(3)
    assert row.worst_share == pytest.approx(0.6)
    assert row.median_share == pytest.approx(0.2)


@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_chunks_are_whole_frames_and_each_is_timed_once(chunk_frames: int) -> None:
    encode, decode = measure(tiny_codec("causal"), chunk_frames, 0.2, 2.4)
    assert (encode.direction, decode.direction) == ("encode", "decode")
    assert encode.chunk_seconds == decode.chunk_seconds == pytest.approx(chunk_frames * 320 / 24_000)
    assert len(encode.seconds) == len(decode.seconds) == 15 // chunk_frames
    assert min(encode.seconds + decode.seconds) > 0


def test_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    main(
        ["--codec", "starter_seanet", "--seconds", "0.05", "--chunk-frames", "1", "--kbps", "1.5", "--json", str(path)]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == describe_machine()
    assert lines[1] == "starter_seanet as a stream at 1.5 kbps, one core"
    assert [line.split()[:3] for line in lines[3:]] == [["encode", "13.3", "ms"], ["decode", "13.3", "ms"]]
    found = json.loads(path.read_text())
    assert found["machine"] == describe_machine()
    assert (found["codec"], found["kbps"]) == ("starter_seanet", 1.5)
    assert [row["direction"] for row in found["rows"]] == ["encode", "decode"]
    assert all(row["worst_share"] >= row["median_share"] > 0 for row in found["rows"])
