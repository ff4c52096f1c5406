"""Samples, similarity of outputs, and curves of an ablation's report."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ablation_inputs import CLIPS, RATE, fail, make_ablation
from codec.evaluation import si_sdr_db
from scripts.ablation.report import samples
from scripts.ablation.report.charts import chart_groups
from scripts.ablation.report.runs import Condition, conditions_by_weights, read_runs
from scripts.ablation.report.samples import compare_clips, output_similarity

DEFAULT: dict[str, dict[str, float]] = {"default": {}}


def conditions_of(folder: Path) -> list[Condition]:
    return conditions_by_weights(read_runs(folder)[0], "weighted_sum")["default"]


def test_similarity_is_the_si_sdr_between_outputs(tmp_path: Path) -> None:
    conditions = conditions_of(make_ablation(tmp_path, settings=DEFAULT))
    similarity = output_similarity(conditions)

    def audio(strategy: str, seed: int, clip: str) -> torch.Tensor:
        path = tmp_path / "runs" / f"{strategy}.default.seed{seed}" / "samples" / f"{clip}.step0000040.wav"
        return torch.from_numpy(soundfile.read(path)[0])[None, None]

    names = [condition.strategy for condition in conditions]
    first, second = names.index("encodec"), names.index("pcgrad")
    between = [float(si_sdr_db(audio("encodec", s, c), audio("pcgrad", s, c))) for s in (0, 1) for c in CLIPS]
    assert similarity[first, second] == pytest.approx(np.mean(between), abs=1e-6)
    assert similarity[second, first] == pytest.approx(similarity[first, second], abs=1e-9)
    own = [float(si_sdr_db(audio("encodec", 0, c), audio("encodec", 1, c))) for c in CLIPS]
    assert similarity[first, first] == pytest.approx(np.mean(own), abs=1e-6)


def test_silent_unreadable_and_differently_long_outputs_are_not_compared(tmp_path: Path) -> None:
    make_ablation(tmp_path, ("a", "b", "c", "d"), (0,), DEFAULT)
    folders = {name: tmp_path / "runs" / f"{name}.default.seed0" / "samples" for name in "abcd"}
    for clip in CLIPS:
        soundfile.write(folders["b"] / f"{clip}.step0000040.wav", np.zeros(8000), RATE)
        soundfile.write(folders["c"] / f"{clip}.step0000040.wav", np.ones(50), RATE)
        (folders["d"] / f"{clip}.step0000040.wav").write_text("not audio", encoding="utf-8")
    conditions = conditions_of(tmp_path)
    assert np.isnan(output_similarity(conditions)).all()
    _, notes = compare_clips(conditions)
    assert any(note.startswith("d.default.seed0/speech-b.step0000040.wav cannot be read: ") for note in notes)


def test_long_clips_many_clips_and_large_pages_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ablation(tmp_path, seeds=(0, 1), settings=DEFAULT, seconds=3.5)
    conditions = conditions_of(tmp_path)
    shown, notes = compare_clips(conditions, max_clips=3)
    assert [(one.seed, one.name) for one in shown] == [
        (seed, clip) for seed in (0, 1) for clip in ("music-a", "speech-a", "music-b")
    ]
    assert notes == ["3 of 4 clips are shown."]
    sample = shown[0].versions[0]
    assert [version.label for version in shown[0].versions] == ["reference", "weighted_sum", "encodec", "pcgrad"]
    assert shown[0].seconds == 3.0
    assert sample.audio.startswith("data:audio/flac;base64,")
    assert soundfile.info(io.BytesIO(base64.b64decode(sample.audio.partition(",")[2]))).frames == 3 * RATE

    size = sum(len(version.audio) for version in shown[0].versions)
    monkeypatch.setattr(samples, "_MAX_BYTES", round(2.5 * size))
    shown, notes = compare_clips(conditions, max_clips=3)
    assert [(one.seed, one.name) for one in shown] == [(0, "music-a"), (0, "speech-a")]
    assert notes[1].endswith("left out: 4.")


def test_curves_share_their_axes_and_leave_failed_runs_out(tmp_path: Path) -> None:
    strategies = [f"strategy{i:02d}" for i in range(11)] + ["weighted_sum"]
    make_ablation(tmp_path, strategies, (0,), DEFAULT, seconds=0.1)
    fail(tmp_path / "runs" / "strategy03.default.seed0", "NaN")
    groups, notes = chart_groups(conditions_of(tmp_path), "weighted_sum")
    assert notes == []
    assert [group.title for group in groups] == [
        "Training losses",
        "Held-out scores",
        "Share of the balanced gradient",
        "Cosine between gradients",
    ]
    assert [chart.title for chart in groups[0].charts] == ["l1", "l1", "adversarial", "adversarial"]
    assert [len(chart.legend) for chart in groups[0].charts] == [8, 4, 8, 4]
    for chart in groups[0].charts:
        assert chart.legend[0] == ("weighted_sum", "#8a8a8a")
    first, second = groups[0].charts[:2]
    assert (first.limits, first.steps, first.log) == (second.limits, second.steps, second.log)
    assert first.limits is not None
    everything = np.concatenate([line.values for chart in (first, second) for line in chart.series])
    assert first.limits[0] < everything.min() < everything.max() < first.limits[1]
    assert first.steps == (10, 40)
    assert len(groups[2].charts) == 11
    assert groups[2].legend == [("l1", "#4a86c5"), ("adversarial", "#ee6677")]
    assert [name for name, _ in groups[3].legend] == ["l1 and adversarial"]


def test_curves_are_means_over_the_seeds_with_a_value(tmp_path: Path) -> None:
    make_ablation(tmp_path, ("weighted_sum",), (0, 1), DEFAULT, seconds=0.1)
    for seed, values in enumerate([[1.0, 2.0, None], [3.0, None, None]]):
        lines = [{"split": "train", "step": step, "share/l1": value} for step, value in enumerate(values)]
        path = tmp_path / "runs" / f"weighted_sum.default.seed{seed}" / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    groups, _ = chart_groups(conditions_of(tmp_path), "weighted_sum")
    assert [group.title for group in groups] == ["Share of the balanced gradient"]
    (chart,) = groups[0].charts
    (line,) = chart.series
    assert (chart.kind, line.name, line.steps.tolist()) == ("area", "l1", [0, 1, 2])
    assert line.values.tolist() == [2.0, 2.0, 0.0]  # the last one is unknown
