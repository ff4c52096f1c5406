"""Scales that use gradient norms: worked numbers, identities between them, and bounds."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from balancer import EmaNorm, Statistics
from balancer.rates import InverseRates
from balancer.scales.db_mtl import DBMTL
from balancer.scales.gradient_normalization import GradientNormalization
from balancer.scales.gradnorm import GradNorm, norm_gradient, norm_targets
from balancer.scales.vqgan import VQGAN
from balancer.statistics import SharedGradient, SharedLayers
from balancer.strategy import UsesLossWeights

NAMES = "abcdefgh"
# Two gradients with norms 5 and 2.
PAIR = torch.tensor([[3.0, 4.0], [0.0, 2.0]])


def prepared(scale: Any, names: str | list[str] = "ab") -> Any:
    if isinstance(scale, UsesLossWeights):
        scale.prepare(dict.fromkeys(names, 1.0))
    return scale


def statistics(
    rows: Tensor,
    losses: list[float] | None = None,
    index: list[int] | None = None,
    weights: list[float] | None = None,
    shared_gradient: SharedGradient | None = None,
) -> Statistics:
    count = len(rows)
    values = torch.tensor(losses or [1.0] * count, dtype=torch.float64)
    users = torch.tensor(weights or [1.0] * count, dtype=torch.float64)
    return Statistics(torch.tensor(index or range(count)), values, users, rows[:, None, None].float(), shared_gradient)


def rows_of(norms: list[float], seed: int = 0, size: int = 12) -> Tensor:
    """Rows in random directions with these norms."""
    rows = torch.randn(len(norms), size, generator=torch.Generator().manual_seed(seed))
    return torch.tensor(norms)[:, None] * nn.functional.normalize(rows, dim=1)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Rates


def rates_of(rates: InverseRates, losses: list[float], index: list[int] | None = None) -> Tensor:
    return rates(statistics(torch.ones(len(losses), 1), losses, index))


def test_rates_example() -> None:
    rates = InverseRates({"a": 1, "b": 1})
    assert_close(rates_of(rates, [4.0, 0.5]), double(1, 1))
    assert_close(rates_of(rates, [2.0, 0.5]), double(2 / 3, 4 / 3))


def test_a_late_loss_starts_at_its_own_first_value() -> None:
    rates = InverseRates({"a": 1, "b": 1, "c": 1})
    rates_of(rates, [4.0], [0])
    rates_of(rates, [8.0, 5.0], [0, 2])
    assert rates.initial.tolist() == [4, 0, 5]
    assert_close(rates_of(rates, [4.0, 15.0], [0, 2]), double(0.5, 1.5))


def test_excluded_losses_have_rate_one_and_do_not_affect_the_others() -> None:
    rates = InverseRates({"a": 1, "b": 1, "c": 1}, ["c", "elsewhere"])
    rates_of(rates, [4.0, 0.5, -3.0])
    assert_close(rates_of(rates, [2.0, 0.5, 700.0]), double(2 / 3, 4 / 3, 1))
    assert_close(rates_of(rates, [700.0], [2]), double(1))


@pytest.mark.parametrize("first", [0.0, -1.0, 1e-300, 1e300])
@pytest.mark.parametrize("then", [0.0, -5.0, 1e-300, 1e300])
def test_rates_of_any_losses_are_bounded(first: float, then: float) -> None:
    rates = InverseRates({"a": 1, "b": 1})
    rates_of(rates, [first, 1.0])
    found = rates_of(rates, [then, 1.0])
    assert found.min() >= 0.01
    assert found.sum().item() == pytest.approx(2)


# Gradient normalization


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.6, 1.8]),
        ({"rate_exponent": 1.0}, [0.4, 1.866667]),
        ({"rate_exponent": 1.0, "keep_mean_norm": True}, [1.4, 6.533333]),
        ({"rate_exponent": 1.0, "exclude_from_rates": ["a"]}, [0.6, 1.8]),
    ],
)
def test_gradient_normalization_example(settings: dict[str, Any], expected: list[float]) -> None:
    scale = prepared(GradientNormalization(**settings))
    scale(statistics(PAIR, [4.0, 0.5]))
    factors = scale(statistics(PAIR, [2.0, 0.5]))
    assert_close(factors @ PAIR.double(), double(*expected), atol=1e-6, rtol=0)


def test_without_rates_it_is_encodecs_scale_without_averages() -> None:
    ours, encodec = prepared(GradientNormalization(), "abcd"), prepared(EmaNorm(0.0, 4.0, "batch"), "abcd")
    for seed in range(5):
        step = statistics(rows_of([1e3, 1.0, 1e-3, 7.0], seed))
        assert_close(ours(step), encodec(step))


# DB-MTL


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_db_mtl_example(sign: float) -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    factors = prepared(DBMTL(decay=0.0))(statistics(rows, [sign * 4.0, 0.5]))
    assert_close(factors @ rows.double(), double(4, 4))


def test_db_mtl_averages_norms() -> None:
    scale = prepared(DBMTL(decay=0.5))
    scale(statistics(PAIR, [5.0, 1.0]))
    # Averages (1 / 2 * 1 + 3) / 1.5 = 7 / 3 and (1 / 2 * 2 + 8) / 1.5 = 6.
    factors = scale(statistics(PAIR, [5 / 3, 0.25]))
    assert_close(factors, double(6 / (7 / 3) / (5 / 3), 4.0))


def test_db_mtl_uses_loss_values_only_for_the_common_norm() -> None:
    bounded, published = prepared(DBMTL(0.0, 1e-3)), prepared(DBMTL(0.0, 1e-30))
    ordinary = statistics(PAIR, [0.5, 0.002])
    assert_close(bounded(ordinary), published(ordinary))
    for tiny in (1e-6, 0.0, -1e-6):
        contributions = bounded(statistics(PAIR, [0.5, tiny])) * double(5, 2)
        assert_close(contributions, double(2000, 2000))


# GradNorm

WEIGHTS, NORMS = double(1, 1), double(6, 2)


@pytest.mark.parametrize(
    ("alpha", "targets", "loss"), [(1.0, [2.666667, 5.333333], 6.666667), (1.5, [2.177324, 6.158403], 7.981079)]
)
def test_gradnorm_example(alpha: float, targets: list[float], loss: float) -> None:
    rates = InverseRates({"a": 1, "b": 1})
    rates_of(rates, [4.0, 0.5])
    found = norm_targets(WEIGHTS, NORMS, rates_of(rates, [2.0, 0.5]), alpha)
    assert_close(found, double(*targets), atol=1e-6, rtol=0)
    assert (WEIGHTS * NORMS - found).abs().sum().item() == pytest.approx(loss, abs=1e-6)
    gradient = norm_gradient(WEIGHTS, NORMS, found)
    assert gradient.tolist() == [6, -2]
    # The paper's step: gradient descent in w, then normalisation to the sum m.
    updated = WEIGHTS - 0.025 * gradient
    assert_close(2 * updated / updated.sum(), double(0.894737, 1.105263), atol=1e-6, rtol=0)


def test_gradnorms_gradient_equals_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights, norms, rates = torch.rand(3, 5, generator=generator, dtype=torch.float64)
        weights.requires_grad_()
        targets = norm_targets(weights, norms, rates, 1.5).detach()
        (expected,) = torch.autograd.grad((weights * norms - targets).abs().sum(), [weights])
        assert_close(norm_gradient(weights.detach(), norms, targets), expected)


def test_gradnorms_step_equals_autograd_and_adam() -> None:
    """The same controller with torch's softmax, autograd and Adam."""
    scale = prepared(GradNorm(alpha=0.7, lr=0.1), "abc")
    logits = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    adam = torch.optim.Adam([logits], lr=0.1)
    initial = None
    for seed in range(30):
        values = (0.1 + torch.rand(3, generator=torch.Generator().manual_seed(seed))).tolist()
        step = statistics(rows_of([1.0, 30.0, 0.01], seed), values)
        losses = double(*values)
        initial = losses if initial is None else initial
        rates = losses / initial / (losses / initial).mean()
        weights = 3 * logits.softmax(0)
        assert_close(scale(step), weights.detach())
        norms = step.norms / (weights.detach() * step.norms).mean()
        targets = ((weights * norms).mean() * rates**0.7).detach()
        adam.zero_grad()
        (weights * norms - targets).abs().sum().backward()
        adam.step()


@pytest.mark.parametrize("norms", [[6.0, 2.0], [1e3, 1.0, 1e-3], [1e-6, 3e-6, 1e-5, 1e-6]])
def test_gradnorm_without_rates_makes_norms_equal(norms: list[float]) -> None:
    scale = prepared(GradNorm(alpha=0.0), NAMES[: len(norms)])
    for seed in range(600):
        factors = scale(statistics(rows_of(norms, seed)))
    contributions = factors * double(*norms)
    assert_close(contributions / contributions.mean(), torch.ones_like(contributions), rtol=0, atol=0.05)
    assert factors.sum().item() == pytest.approx(len(norms))
    if norms == [6.0, 2.0]:
        assert_close(factors, double(0.5, 1.5), atol=0.05, rtol=0)


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_gradnorm_needs_a_learning_rate(lr: float) -> None:
    with pytest.raises(ValueError, match=rf"lr must be in \(0, inf\), got {lr}"):
        GradNorm(lr=lr)


def test_gradnorm_does_not_depend_on_the_common_norm() -> None:
    one, other = prepared(GradNorm(), "abc"), prepared(GradNorm(), "abc")
    for seed in range(50):
        rows = rows_of([1.0, 5.0, 0.1], seed)
        assert_close(one(statistics(rows)), other(statistics(1e-6 * rows)))


def test_a_single_loss_keeps_the_weight_one() -> None:
    scale = prepared(GradNorm(), "abc")
    for value in (4.0, 1.0, -3.0, 0.0):
        assert scale(statistics(torch.ones(1, 4), [value], [1])).tolist() == [1]
    assert scale.logits.tolist() == [0, 0, 0]


def test_absent_losses_keep_their_logits() -> None:
    scale = prepared(GradNorm(), "abc")
    for _ in range(20):
        scale(statistics(rows_of([1.0, 5.0, 0.1]), [1.0, 2.0, 3.0]))
    before = scale.logits.clone()
    for _ in range(20):
        scale(statistics(rows_of([1.0, 0.1]), [1.0, 3.0], [0, 2]))
    assert scale.logits[1] == before[1]
    assert (scale.logits != before).tolist() == [True, False, True]


def linear_shared_gradient(seen: list[str] | None = None, fill: float | None = None) -> SharedGradient:
    """Gradients at parameters of which the output is a linear function: 20 in the last layer, 40 in all."""
    matrices = {
        layers: torch.randn(12, size, generator=torch.Generator().manual_seed(size))
        for layers, size in (("last_layer", 20), ("all_shared", 40))
    }

    def shared_gradient(gradient: Tensor, layers: SharedLayers) -> Tensor:
        if seen is not None:
            seen.append(layers)
        found = gradient.flatten() @ matrices[layers]
        return found if fill is None else torch.full_like(found, fill)

    return shared_gradient


@pytest.mark.parametrize("layers", ["last_layer", "all_shared"])
def test_gradnorm_at_parameters_makes_norms_there_equal(layers: SharedLayers) -> None:
    seen: list[str] = []
    scale = prepared(GradNorm(layers, alpha=0.0))
    rows = rows_of([6.0, 0.5])
    for _ in range(400):
        factors = scale(statistics(rows, shared_gradient=linear_shared_gradient(seen)))
    norms = torch.stack([torch.linalg.vector_norm(linear_shared_gradient()(row, layers)) for row in rows]).double()
    assert_close((factors * norms) / (factors * norms).mean(), double(1, 1), rtol=0, atol=0.1)
    assert set(seen) == {layers}
    assert len(seen) == 2 * 400


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 0.0])
def test_gradnorm_ignores_norms_that_are_not_finite(fill: float) -> None:
    scale = prepared(GradNorm("last_layer"))
    for step in range(10):
        shared_gradient = linear_shared_gradient(fill=fill if step == 4 else None)
        factors = scale(statistics(rows_of([1.0, 3.0]), shared_gradient=shared_gradient))
        assert factors.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in scale.buffers())


def test_norms_at_parameters_need_shared_gradient() -> None:
    for scale in (GradNorm("last_layer"), VQGAN("all_shared")):
        with pytest.raises(ValueError, match="need shared_gradient"):
            prepared(scale)(statistics(PAIR))


# VQGAN


def test_vqgan_example() -> None:
    rows = torch.tensor([[6.0, 0.0], [0.0, 2.0]])
    factors = prepared(VQGAN("output", ["b"]))(statistics(rows))
    assert_close(factors, double(1, 2.99985), atol=1e-5, rtol=0)


def test_the_reconstruction_is_the_weighted_sum_of_all_other_losses() -> None:
    names = ["l1", "mel", "adversarial", "feature_matching"]
    rows = rows_of([1.0, 2.0, 0.5, 3.0])
    weights = [0.1, 1.0, 3.0, 6.0]
    reconstruction = (0.1 * rows[0] + rows[1]).norm().item()
    adversarial = (rows[2] / 3 + 2 * rows[3] / 3).norm().item()
    factors = prepared(VQGAN("output", eps=1e-9), names)(statistics(rows, weights=weights))
    ratio = reconstruction / adversarial
    assert_close(factors, double(1, 1, ratio, ratio))


@pytest.mark.parametrize("layers", ["last_layer", "all_shared"])
def test_vqgan_computes_two_gradients_at_the_parameters(layers: SharedLayers) -> None:
    seen: list[str] = []
    rows, names = rows_of([1.0, 2.0, 0.5]), ["l1", "mel", "adversarial"]
    shared_gradient = linear_shared_gradient(seen)
    factors = prepared(VQGAN(layers), names)(statistics(rows, shared_gradient=shared_gradient))
    assert seen == [layers, layers]
    parts = [torch.linalg.vector_norm(shared_gradient(each, layers)).item() for each in (rows[0] + rows[1], rows[2])]
    assert_close(factors, double(1, 1, parts[0] / (parts[1] + 1e-4)))


def test_the_adversarial_weight_is_limited() -> None:
    rows = torch.tensor([[1e3, 0.0], [0.0, 1e-9]])
    assert prepared(VQGAN("output", ["b"]))(statistics(rows)).tolist() == [1, 1e4]
    assert prepared(VQGAN("output", ["b"], limit=7.0))(statistics(rows)).tolist() == [1, 7]


@pytest.mark.parametrize("index", [[0], [1]])
def test_vqgan_with_one_side_missing_has_factor_one(index: list[int]) -> None:
    assert prepared(VQGAN("output", ["b"]))(statistics(torch.ones(1, 3), index=index)).tolist() == [1]


# All

MAKERS: Mapping[str, Callable[[], Any]] = {
    "gradient_normalization": lambda: GradientNormalization(rate_exponent=1.0),
    "db_mtl": DBMTL,
    "gradnorm": GradNorm,
}


@pytest.mark.parametrize("name", MAKERS)
def test_state_survives_a_checkpoint(name: str) -> None:
    def run(scale: Any, seeds: range) -> list[Tensor]:
        return [scale(statistics(rows_of([1.0, 9.0], seed), [2.0 / (1 + seed), 1.0])) for seed in seeds]

    uninterrupted, stopped, resumed = (prepared(MAKERS[name]()) for _ in range(3))
    expected = run(uninterrupted, range(10))
    run(stopped, range(5))
    resumed.load_state_dict(stopped.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(resumed, range(5, 10)), expected[5:], strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientNormalization(rate_exponent=-1.0), r"rate_exponent must be in \[0, inf\), got -1"),
        (lambda: DBMTL(decay=1.0), r"decay must be in \[0, 1\), got 1"),
        (lambda: DBMTL(smallest_loss=0.0), r"smallest_loss must be in \(0, inf\), got 0"),
        (lambda: GradNorm("decoder"), "norm_on must be one of output, last_layer, all_shared, got 'decoder'"),
        (lambda: GradNorm(alpha=-0.1), r"alpha must be in \[0, inf\), got -0.1"),
        (lambda: prepared(GradNorm(lr=0.0)), r"lr must be in \(0, inf\), got 0"),
        (lambda: VQGAN("decoder"), "norm_on must be one of output, last_layer, all_shared, got 'decoder'"),
        (lambda: VQGAN(eps=0.0), r"eps must be in \(0, inf\), got 0"),
        (lambda: VQGAN(limit=0.0), r"limit must be in \(0, inf\), got 0"),
    ],
)
def test_settings_out_of_range_are_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
