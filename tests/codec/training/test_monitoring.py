"""What each loss does to the result, measured beside the training and without touching it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.testing import assert_close

from balancer import Statistics
from balancer.gradient_report import GradientReport, report_gradients
from balancer.strategy import CombinedGradient
from balancer_inputs import leaf, linear, noise, weighted_sum
from codec.training import CodebookConfig, Trainer
from codec.training.logging.run_logger import RunLogger, TensorBoardSink
from tiny_run import (
    copied,
    differences,
    metric_lines,
    plain_losses,
    started,
    take_steps,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
)

ALL_BOOKS = CodebookConfig(dropout="none")


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def measured(rows: Tensor, weights: Tensor) -> GradientReport:
    """The report on gradients [m, n] that weights [m] or [m, n] combine."""
    count = len(rows)
    ones = torch.ones(count, dtype=torch.float64)
    statistics = Statistics(torch.arange(count), ones, ones, rows[:, None, None])
    columns = weights[:, None] if weights.ndim == 1 else weights
    return report_gradients(
        tuple("abcdefgh"[:count]), statistics, CombinedGradient(weights, (columns.float() * rows).sum(0))
    )


def exactly(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# The report


def test_worked_numbers() -> None:
    balance = measured(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), exactly(1, 1))
    assert balance.names == ("a", "b")
    assert_close(balance.norms, exactly(5, 2))
    assert_close(balance.shares, exactly(5 / 7, 2 / 7))
    assert_close(balance.projections, exactly(33 / 45, 12 / 45))  # .7333, .2667
    assert_close(balance.cosines, exactly(1, 0.8, 0.8, 1).view(2, 2))
    assert balance.conflicts == 0
    assert balance.norm.item() == pytest.approx(45**0.5)


def test_weights_turn_the_result_and_leave_norms_and_cosines() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    plain, weighted = measured(rows, exactly(1, 1)), measured(rows, exactly(2, 5))
    assert torch.equal(plain.norms, weighted.norms)
    assert torch.equal(plain.cosines, weighted.cosines)
    assert_close(weighted.shares, exactly(0.5, 0.5))
    assert_close(weighted.projections, exactly(180 / 360, 180 / 360))  # (6, 8) and (0, 10) on (6, 18)


def test_a_loss_that_points_against_the_result_projects_negatively_and_keeps_its_share() -> None:
    balance = measured(torch.tensor([[3.0, 0.0], [-1.0, 0.0]]), exactly(1, 1))
    assert_close(balance.projections, exactly(1.5, -0.5))
    assert_close(balance.shares, exactly(0.75, 0.25))
    assert balance.conflicts == 1


def test_a_weight_for_every_element() -> None:
    balance = measured(torch.tensor([[3.0, 4.0], [9.0, 2.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    assert_close(balance.shares, exactly(13**0.5, 2) / (13**0.5 + 2))  # (3, 2) and (0, 2)
    assert_close(balance.projections, exactly(17 / 25, 8 / 25))  # on (3, 4)
    assert_close(balance.norms, exactly(5, 85**0.5))


@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_one_weight_a_loss_and_the_same_for_every_element_agree(spread: float) -> None:
    rows = torch.stack(list(noise("abcde", (40,), seed=2, spread=spread).values()))
    weights = torch.tensor([1.0, 3.0, 0.25, 10.0, 7.0], dtype=torch.float64)
    for one, other in zip(measured(rows, weights)[1:], measured(rows, weights[:, None].expand(5, 40))[1:], strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("seed", range(5))
def test_shares_and_projections_add_up_to_one(seed: int) -> None:
    rows = torch.stack(list(noise("abcdefgh", (300,), seed, spread=1e4).values()))
    balance = measured(rows, torch.logspace(0, 3, 8, dtype=torch.float64))
    assert balance.shares.sum().item() == pytest.approx(1)
    assert balance.projections.sum().item() == pytest.approx(1)
    assert balance.shares.min() > 0
    pairs = [balance.cosines[i, j].item() < 0 for i in range(8) for j in range(i)]
    assert balance.conflicts.item() == pytest.approx(sum(pairs) / 28)


def test_one_loss_alone_is_the_whole_result() -> None:
    balance = measured(torch.tensor([[3.0, 4.0]]), exactly(0.1))
    assert (balance.shares.tolist(), balance.conflicts.item()) == ([1], 0)
    assert_close(balance.projections, exactly(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_where_all_cancels_there_is_nothing_to_point_along(scale: float) -> None:
    row = scale * noise("a", (1000,), seed=4)["a"]
    for rows, weights in (
        (torch.stack([row, -row / 3]), exactly(1, 3)),
        (torch.stack([0 * row, 0 * row]), exactly(1, 1)),
    ):
        balance = measured(rows, weights)
        assert balance.projections.tolist() == [0, 0]
        assert all(part.isfinite().all() for part in balance[1:])


def test_what_almost_cancels_is_still_measured() -> None:
    balance = measured(torch.tensor([[1.0, 0.0], [-1.0, 1e-3]]), exactly(1, 1))
    assert_close(balance.projections, exactly(0, 1))
    assert balance.shares.tolist() == pytest.approx([0.5, 0.5], rel=1e-5)


# In the log


def as_measured(values: Mapping[str, Tensor], prefix: str) -> list[float]:
    return [values[f"{prefix}/{name}"].item() for name in ("l1", "mel")]


def test_a_monitoring_step_reports_all_of_it_and_the_others_none(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=started(tiny_codec()), monitor_every=2, max_steps=9)
    reports: list[GradientReport | None] = []
    trainer.balancer.register_forward_hook(lambda module, args, result: reports.append(result.report))
    metrics = take_steps(trainer, 3)
    balance = reports[0]
    assert balance is not None
    assert as_measured(metrics[0], "norm") == balance.norms.tolist()
    assert as_measured(metrics[0], "share") == balance.shares.tolist()
    assert as_measured(metrics[0], "projection") == balance.projections.tolist()
    assert metrics[0]["cosine/l1/mel"] == balance.cosines[0, 1]
    assert (metrics[0]["conflicts"], metrics[0]["balanced_norm"]) == (balance.conflicts, balance.norm)
    only = set(metrics[0]) - set(metrics[1])
    assert only == {
        *(f"{prefix}/{name}" for prefix in ("norm", "share", "projection") for name in ("l1", "mel")),
        "cosine/l1/mel", "conflicts", "balanced_norm", "commitment_ratio",
    }  # fmt: skip
    assert set(metrics[2]) == set(metrics[0])


def test_a_line_of_the_log_holds_means_over_its_monitoring_steps(tmp_path: Path) -> None:
    def lines(folder: str, log_every: int) -> list[dict[str, float]]:
        trainer = tiny_trainer(
            tmp_path / folder,
            monitor_every=2,
            log_every=log_every,
            max_steps=6,
        )
        trainer.run()
        return metric_lines(trainer)

    each, all_in_one = lines("a", 1), lines("b", 6)[0]
    for name in ("share/l1", "projection/mel", "cosine/l1/mel", "balanced_norm", "commitment_ratio"):
        found = [line[name] for line in each if name in line]
        assert len(found) == 3
        assert all_in_one[name] == pytest.approx(sum(found) / 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("encodec", [False, True])
def test_the_commitment_ratio_is_that_of_two_backward_passes(
    tmp_path: Path, encodec: bool, reduction: Any, precision: Any
) -> None:
    codec = started(tiny_codec())
    trainer = tiny_trainer(
        tmp_path,
        codec=codec,
        codebooks=CodebookConfig(dropout="none", commitment_weight=0.3, commitment_reduction=reduction),
        monitor_every=1,
        encodec=encodec,
        precision=precision,
    )
    audio = trainer.data.batch(0)
    with trainer.precision.autocast():
        output = codec(audio)
    y = output.audio.detach().float().requires_grad_()
    losses = {name: loss(y, audio) for name, loss in plain_losses().items()}
    gradient = tiny_trainer(tmp_path / "other", encodec=encodec).balancer(losses, y).gradient.to(output.audio.dtype)
    (through_decoder,) = torch.autograd.grad(output.audio, output.quantized.latent, gradient, retain_graph=True)
    commitment = 0.3 * getattr(output.quantized.commitment, reduction)()
    (to_commit,) = torch.autograd.grad(commitment, output.latent)
    (metrics,) = take_steps(trainer, 1)
    wanted = (to_commit.double().norm() / through_decoder.double().norm()).item()
    assert metrics["commitment_ratio"].item() == pytest.approx(wanted, rel=1e-5)
    assert wanted > 0


def test_there_is_no_commitment_ratio_before_the_codebooks_start(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path, codebooks=CodebookConfig(start_fraction=0.5), monitor_every=1, log_every=1
    )  # fmt: skip
    trainer.run()
    assert ["commitment_ratio" in line for line in metric_lines(trainer)] == [False] * 3 + [True] * 3
    assert all("conflicts" in line for line in metric_lines(trainer))


@pytest.mark.parametrize("encodec", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_monitoring_does_not_change_the_training(tmp_path: Path, precision: str, encodec: bool) -> None:
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


def test_a_sink_takes_the_metrics_of_a_monitoring_step(tmp_path: Path) -> None:
    (metrics,) = take_steps(tiny_trainer(tmp_path, codec=started(tiny_codec()), monitor_every=1), 1)
    logger = RunLogger(tmp_path / "told", [TensorBoardSink()])
    logger.metrics("train", 1, 0.0, metrics)
    logger.close()
    events = EventAccumulator(str(tmp_path / "told" / "tensorboard"))
    events.Reload()
    for name in ("projection/mel", "cosine/l1/mel", "conflicts", "commitment_ratio"):
        assert events.Scalars(f"train/{name}")[0].value == pytest.approx(metrics[name].item())


def test_the_report_is_measured_on_the_gradients_of_the_losses() -> None:
    rows = noise("abc", (2, 1, 30), seed=5, spread=50)
    output = leaf(2, 1, 30)
    weights = {"a": 1.0, "b": 5.0, "c": 0.5}
    balance = weighted_sum(weights, monitor_every=1)(linear(output, rows), output).report
    assert balance is not None
    expected = measured(torch.stack([row.flatten() for row in rows.values()]), exactly(*weights.values()))
    for one, other in zip(balance[1:], expected[1:], strict=True):
        assert_close(one, other)
