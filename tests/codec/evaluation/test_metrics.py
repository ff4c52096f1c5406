"""The registry of metrics, and a metric that is added from outside the packages."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from codec.evaluation import METRICS, Metric, check_packages, describe, score_audio, score_codes, select_metrics
from codec.evaluation.report.page import write_report
from codec.training import Validation
from tiny_run import metric_lines, tidied, tiny_trainer


def peak_difference(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Shape: estimate [B, C, T], reference [B, C, T] -> [B]."""
    return (estimate - reference).abs().amax((1, 2))


PEAK = Metric("peak", "peak difference", peak_difference, higher_is_better=False, digits=1, unit="FS")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module outside the packages."""
    module = ModuleType("my_metrics")
    module.PEAK = PEAK  # type: ignore[attr-defined]
    module.text = "no metric"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_metrics", module)
    return "my_metrics"


def test_every_entry_has_its_own_name_as_key() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())
    assert {name for name, metric in METRICS.items() if metric.domain == "speech"} == {
        "distillmos",
        "dnsmos",
        "pesq",
        "stoi",
        "visqol_speech",
    }
    assert {name for name, metric in METRICS.items() if metric.domain == "codes"} == {
        "codes_used",
        "bitrate_efficiency",
    }
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)


def test_headings_and_signs() -> None:
    assert [(METRICS[name].heading, METRICS[name].sign) for name in ("si_sdr_db", "mel_distance")] == [
        ("SI-SDR, dB", 1),
        ("mel distance", -1),
    ]
    assert describe("si_sdr_db") is METRICS["si_sdr_db"]
    other = describe("mel_loss")
    assert (other.name, other.heading, other.sign) == ("mel_loss", "mel loss", 0)


def test_a_metric_from_outside_the_packages(outside: str) -> None:
    metrics = select_metrics(["si_sdr_db", f"{outside}:PEAK"])
    assert list(metrics) == ["si_sdr_db", "peak"]
    reference = torch.ones(2, 1, 100)
    scores = score_audio(reference - torch.tensor([0.25, 0.5])[:, None, None], reference, 8000, metrics)
    assert list(scores) == ["si_sdr_db", "peak"]
    assert scores["peak"].tolist() == [0.25, 0.5]
    assert describe("peak", metrics).heading == "peak difference, FS"
    assert select_metrics([PEAK]) == {"peak": PEAK}
    assert select_metrics(["peak"], {"peak": PEAK}) == {"peak": PEAK}


def test_three_steps_with_a_metric_from_outside_the_packages(outside: str, tmp_path: Path) -> None:
    with tidied():
        trainer = tiny_trainer(tmp_path, max_steps=3)
        clips, folder = trainer.validation.clips, trainer.validation.samples_folder
        trainer.validation = Validation(clips, folder, 3.2, metrics=["mel_distance", f"{outside}:PEAK"])
        scores = trainer.run()
        logged = metric_lines(trainer, "validation")[-1]
    assert {key for key in scores if key.endswith("/peak")} == {"speech/peak", "music/peak"}
    assert logged["speech/peak"] == scores["speech/peak"] > 0
    assert "speech/si_sdr_db" not in scores
    page = write_report(tmp_path / "run", metrics=dict(METRICS) | {"peak": PEAK}).read_text(encoding="utf-8")
    assert "peak difference, FS" in page


def test_undefined_scores_are_left_out_of_the_means_of_validation(tmp_path: Path) -> None:
    def undefined_for_one(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
        calls.append(reference.abs().amax())
        return torch.tensor([float("nan") if len(calls) == 1 else 0.25])

    calls: list[Tensor] = []
    metric = Metric("sometimes", "sometimes", undefined_for_one)
    with tidied():
        trainer = tiny_trainer(tmp_path)
        validation = Validation(trainer.validation.clips, tmp_path, 3.2, samples_per_group=0, metrics=[metric])
        scores = validation.run(trainer.codec, {}, 0).scores
    assert len(calls) == 2
    assert {key: value for key, value in scores.items() if key.endswith("/sometimes")} == {"music/sometimes": 0.25}


def test_metrics_of_codes_and_of_audio_are_kept_apart() -> None:
    metrics = select_metrics(["codes_used", "mel_distance"])
    counts = torch.tensor([[1, 1, 0, 0]])
    assert score_codes(counts, [4], metrics) == {"codes_used": 0.5}
    assert list(score_audio(torch.zeros(1, 1, 9), torch.zeros(1, 1, 9), 8000, metrics)) == ["mel_distance"]
    assert score_codes(counts, [4]) == {"codes_used": 0.5, "bitrate_efficiency": 0.5}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["vizqol"], "no metric vizqol; choose from distillmos, dnsmos, "),
        (["stoi", "stoi"], "got stoi twice"),
        (["my_metrics:text"], r"expected a codec\.evaluation\.Metric, got str"),
        (["my_metrics:NONE"], "my_metrics:NONE cannot be imported"),
        (["no_such_module:X"], "no_such_module:X cannot be imported"),
        (["no module:X"], "no module:X cannot be imported"),
    ],
)
def test_invalid_choices_raise(outside: str, chosen: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_metrics(chosen)


def test_only_packages_of_the_chosen_metrics_are_required() -> None:
    check_packages(select_metrics(["mel_distance", "codes_used"]).values())
    missing = Metric("x", "x", peak_difference, packages=("no_such_package_a", "torch", "no_such_package_b"))
    with pytest.raises(ValueError, match="no_such_package_a, no_such_package_b not installed"):
        check_packages([missing])


def test_scores_of_unknown_metrics_cannot_be_computed() -> None:
    with pytest.raises(NotImplementedError):
        describe("unknown").function()
