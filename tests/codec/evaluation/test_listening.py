"""The page to listen to an evaluation."""

import re
from pathlib import Path

import pytest
import torch

from codec.evaluation.rate_distortion import Measurement
from codec.evaluation.report import listening
from codec.evaluation.report.listening import write_listening_page
from report_page import HOSTILE, Page


def measured(clip: str, coder: str, kbps: float | None, level: float = 0.5, keep: bool = True) -> Measurement:
    audio = level * torch.ones(2, 16_000)
    return Measurement(clip, "speech", coder, kbps, 2.0, None, None, {}, None, audio if keep else None)


def test_the_recording_is_first_and_clips_without_audio_are_left_out(tmp_path: Path) -> None:
    coders = [("codec", 6.0, 2.0), ("recording", None, 0.5), ("opus", 12.0, float("nan"))]
    measurements = [measured(HOSTILE, *coder) for coder in coders] + [measured("b", "recording", None, keep=False)]
    write_listening_page(measurements, 8000, HOSTILE, tmp_path / "listening.html")
    page = Page(tmp_path / "listening.html")
    labels = re.findall(r'data-system="([^"]*)"><figcaption>([^<]*)<', page.source)
    assert [label for _, label in labels] == ["reference", "codec, 6 kbit/s", "opus, 12 kbit/s"]
    assert page.count("audio") == 3
    assert page.text.count(HOSTILE) >= 2
    assert page.count("script") == 6
    assert "clips are here" not in page.text
    assert all(load.startswith("data:audio/") for load in page.loads())


def test_a_page_has_as_many_clips_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measurements = [measured(clip, coder, None) for clip in "abc" for coder in ("recording", "cp")]
    write_listening_page(measurements, 8000, "all", tmp_path / "all.html")
    size = sum(map(len, Page(tmp_path / "all.html").loads())) / 3
    monkeypatch.setattr(listening, "_MAX_BYTES", 2.5 * size)
    write_listening_page(measurements, 8000, "two", tmp_path / "two.html")
    page = Page(tmp_path / "two.html")
    assert page.count("audio") == 4
    assert "The first 2 of 3 clips are here." in page.text
