"""Metrics of a monitoring step: the gradient report and the commitment ratio, without any effect on training."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from balancer import GradientReport
from codec.training import CodebookConfig, Trainer
from codec.training.logging import RunLogger, TensorBoardSink
from tiny_run import (
    copied,
    differences,
    initialized,
    metric_lines,
    plain_losses,
    take_steps,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
)


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def values_of(values: Mapping[str, Tensor], prefix: str) -> list[float]:
    return [values[f"{prefix}/{name}"].item() for name in ("l1", "mel")]


def test_only_a_monitoring_step_adds_the_report(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), monitor_every=2, max_steps=9)
    reports: list[GradientReport | None] = []
    trainer.balancer.register_forward_hook(lambda module, args, result: reports.append(result.report))
    metrics = take_steps(trainer, 3)
    report = reports[0]
    assert report is not None
    assert values_of(metrics[0], "norm") == report.norms.tolist()
    assert values_of(metrics[0], "share") == report.shares.tolist()
    assert values_of(metrics[0], "projection") == report.projections.tolist()
    assert metrics[0]["cosine/l1/mel"] == report.cosines[0, 1]
    assert (metrics[0]["conflicts"], metrics[0]["balanced_norm"]) == (report.conflicts, report.norm)
    only = set(metrics[0]) - set(metrics[1])
    assert only == {
        *(f"{prefix}/{name}" for prefix in ("norm", "share", "projection") for name in ("l1", "mel")),
        "cosine/l1/mel", "conflicts", "balanced_norm", "commitment_ratio",
    }  # fmt: skip
    assert set(metrics[2]) == set(metrics[0])


def test_a_record_holds_means_over_its_monitoring_steps(tmp_path: Path) -> None:
    def records(folder: str, log_every: int) -> list[dict[str, float]]:
        trainer = tiny_trainer(tmp_path / folder, monitor_every=2, log_every=log_every, max_steps=6)
        trainer.run()
        return metric_lines(trainer)

    each_step, interval = records("a", 1), records("b", 6)[0]
    for name in ("share/l1", "projection/mel", "cosine/l1/mel", "balanced_norm", "commitment_ratio"):
        found = [line[name] for line in each_step if name in line]
        assert len(found) == 3
        assert interval[name] == pytest.approx(sum(found) / 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("encodec", [False, True])
def test_the_commitment_ratio_equals_that_of_two_backward_passes(
    tmp_path: Path, encodec: bool, reduction: str, precision: str
) -> None:
    """Under bfloat16 both are computed from the same rounded graph, so they differ by the rounding of one tensor."""
    codec = initialized(tiny_codec())
    codebooks = CodebookConfig(dropout="none", commitment_weight=0.3, commitment_reduction=reduction)  # type: ignore[arg-type]
    settings: dict[str, Any] = {"monitor_every": 1, "encodec": encodec, "precision": precision}
    trainer = tiny_trainer(tmp_path, codec=codec, codebooks=codebooks, **settings)
    audio = trainer.data.batch(0)
    with trainer.precision.autocast():
        output = codec(audio)
    y = output.audio.detach().float().requires_grad_()
    losses = {name: loss(y, audio) for name, loss in plain_losses().items()}
    gradient = tiny_trainer(tmp_path / "other", **settings).balancer(losses, y).gradient.to(output.audio.dtype)
    (through_decoder,) = torch.autograd.grad(output.audio, output.quantized.latent, gradient, retain_graph=True)
    commitment = 0.3 * getattr(output.quantized.commitment, reduction)()
    (commitment_gradient,) = torch.autograd.grad(commitment, output.latent)
    (metrics,) = take_steps(trainer, 1)
    expected = (commitment_gradient.double().norm() / through_decoder.double().norm()).item()
    assert metrics["commitment_ratio"].item() == pytest.approx(expected, rel=1e-5 if precision == "float32" else 2**-8)
    assert expected > 0


def test_there_is_no_commitment_ratio_before_the_codebooks_are_initialized(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path, codebooks=CodebookConfig(start_fraction=0.5), monitor_every=1, log_every=1
    )  # fmt: skip
    trainer.run()
    assert ["commitment_ratio" in line for line in metric_lines(trainer)] == [False] * 3 + [True] * 3
    assert all("conflicts" in line for line in metric_lines(trainer))


@pytest.mark.parametrize("encodec", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_monitoring_does_not_affect_training(tmp_path: Path, precision: str, encodec: bool) -> None:
    trainers: list[Trainer] = []
    for monitor_every in (0, 1):
        trainer = tiny_trainer(
            tmp_path / str(monitor_every),
            adversarial=tiny_adversarial(), encodec=encodec, monitor_every=monitor_every, precision=precision,
        )  # fmt: skip
        trainer.run()
        trainers.append(trainer)
    never, always = trainers
    assert "commitment_ratio" in metric_lines(always)[-1]
    assert "commitment_ratio" not in metric_lines(never)[-1]
    states = [copied({k: v for k, v in trainer.state_dict().items() if k != "seconds"}) for trainer in trainers]
    assert differences(*states) == []


def test_a_sink_receives_the_metrics_of_a_monitoring_step(tmp_path: Path) -> None:
    (metrics,) = take_steps(tiny_trainer(tmp_path, codec=initialized(tiny_codec()), monitor_every=1), 1)
    logger = RunLogger(tmp_path / "logged", [TensorBoardSink()])
    logger.metrics("train", 1, 0.0, metrics)
    logger.close()
    events = EventAccumulator(str(tmp_path / "logged" / "tensorboard"))
    events.Reload()
    for name in ("projection/mel", "cosine/l1/mel", "conflicts", "commitment_ratio"):
        assert events.Scalars(f"train/{name}")[0].value == pytest.approx(metrics[name].item())
