"""The gradient report: norms, shares, projections and cosines of the losses' gradients, compared with known values."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from balancer import Statistics
from balancer.gradient_report import GradientReport, report_gradients
from balancer.strategy import CombinedGradient
from balancer_inputs import leaf, linear, noise, weighted_sum


def report_of(rows: Tensor, weights: Tensor) -> GradientReport:
    """The report for gradients [m, n] combined with weights [m] or [m, n]."""
    count = len(rows)
    ones = torch.ones(count, dtype=torch.float64)
    statistics = Statistics(torch.arange(count), ones, ones, rows[:, None, None])
    columns = weights[:, None] if weights.ndim == 1 else weights
    return report_gradients(
        tuple("abcdefgh"[:count]), statistics, CombinedGradient(weights, (columns.float() * rows).sum(0))
    )


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_worked_numbers() -> None:
    report = report_of(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), float64(1, 1))
    assert report.names == ("a", "b")
    assert_close(report.norms, float64(5, 2))
    assert_close(report.shares, float64(5 / 7, 2 / 7))
    assert_close(report.projections, float64(33 / 45, 12 / 45))  # .7333, .2667
    assert_close(report.cosines, float64(1, 0.8, 0.8, 1).view(2, 2))
    assert report.conflicts == 0
    assert report.norm.item() == pytest.approx(45**0.5)


def test_weights_change_shares_and_projections_but_not_norms_and_cosines() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    plain, weighted = report_of(rows, float64(1, 1)), report_of(rows, float64(2, 5))
    assert torch.equal(plain.norms, weighted.norms)
    assert torch.equal(plain.cosines, weighted.cosines)
    assert_close(weighted.shares, float64(0.5, 0.5))
    assert_close(weighted.projections, float64(180 / 360, 180 / 360))  # (6, 8) and (0, 10) on (6, 18)


def test_a_loss_against_the_result_has_a_negative_projection_and_a_positive_share() -> None:
    report = report_of(torch.tensor([[3.0, 0.0], [-1.0, 0.0]]), float64(1, 1))
    assert_close(report.projections, float64(1.5, -0.5))
    assert_close(report.shares, float64(0.75, 0.25))
    assert report.conflicts == 1


def test_a_weight_per_element() -> None:
    report = report_of(torch.tensor([[3.0, 4.0], [9.0, 2.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    assert_close(report.shares, float64(13**0.5, 2) / (13**0.5 + 2))  # (3, 2) and (0, 2)
    assert_close(report.projections, float64(17 / 25, 8 / 25))  # on (3, 4)
    assert_close(report.norms, float64(5, 85**0.5))


@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_a_weight_per_loss_equals_the_same_weight_for_each_element(spread: float) -> None:
    rows = torch.stack(list(noise("abcde", (40,), seed=2, spread=spread).values()))
    weights = torch.tensor([1.0, 3.0, 0.25, 10.0, 7.0], dtype=torch.float64)
    for one, other in zip(
        report_of(rows, weights)[1:], report_of(rows, weights[:, None].expand(5, 40))[1:], strict=True
    ):
        assert_close(one, other)


@pytest.mark.parametrize("seed", range(5))
def test_shares_and_projections_add_up_to_one(seed: int) -> None:
    rows = torch.stack(list(noise("abcdefgh", (300,), seed, spread=1e4).values()))
    report = report_of(rows, torch.logspace(0, 3, 8, dtype=torch.float64))
    assert report.shares.sum().item() == pytest.approx(1)
    assert report.projections.sum().item() == pytest.approx(1)
    assert report.shares.min() > 0
    pairs = [report.cosines[i, j].item() < 0 for i in range(8) for j in range(i)]
    assert report.conflicts.item() == pytest.approx(sum(pairs) / 28)


def test_a_single_loss_has_share_and_projection_one() -> None:
    report = report_of(torch.tensor([[3.0, 4.0]]), float64(0.1))
    assert (report.shares.tolist(), report.conflicts.item()) == ([1], 0)
    assert_close(report.projections, float64(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_projections_are_zero_where_the_gradients_cancel(scale: float) -> None:
    row = scale * noise("a", (1000,), seed=4)["a"]
    for rows, weights in (
        (torch.stack([row, -row / 3]), float64(1, 3)),
        (torch.stack([0 * row, 0 * row]), float64(1, 1)),
    ):
        report = report_of(rows, weights)
        assert report.projections.tolist() == [0, 0]
        assert all(part.isfinite().all() for part in report[1:])


def test_what_almost_cancels_is_still_report_of() -> None:
    report = report_of(torch.tensor([[1.0, 0.0], [-1.0, 1e-3]]), float64(1, 1))
    assert_close(report.projections, float64(0, 1))
    assert report.shares.tolist() == pytest.approx([0.5, 0.5], rel=1e-5)


def test_the_balancer_reports_on_the_gradients_of_the_losses() -> None:
    rows = noise("abc", (2, 1, 30), seed=5, spread=50)
    output = leaf(2, 1, 30)
    weights = {"a": 1.0, "b": 5.0, "c": 0.5}
    report = weighted_sum(weights, monitor_every=1)(linear(output, rows), output).report
    assert report is not None
    expected = report_of(torch.stack([row.flatten() for row in rows.values()]), float64(*weights.values()))
    for one, other in zip(report[1:], expected[1:], strict=True):
        assert_close(one, other)
