"""Losses that are absent, zero or not finite are left out and do not change the state; the state resumes exactly."""

import io

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from balancer import Balancer, EmaNorm
from balancer_inputs import encodec, fixed_sum, leaf, linear, noise, weighted_sum

PAIR = {"a": 1.0, "b": 3.0}


def nan_gradient(output: Tensor) -> Tensor:
    """A finite loss, 1, whose gradient is NaN, like that of a norm at silence."""
    return (output * 0).square().sum().sqrt() + 1


def not_finite(output: Tensor, kind: str) -> Tensor:
    values = {"nan loss": float("nan"), "inf loss": float("inf"), "-inf loss": float("-inf")}
    if kind == "nan gradient":
        return nan_gradient(output)
    if kind == "inf gradient":
        return (output * torch.tensor(float("inf"))).nan_to_num(0.0).sum() + (output.abs() + 0).pow(0.5).sum()
    return output.sum() + values[kind]


def state(balancer: Balancer) -> tuple[Tensor, Tensor]:
    assert isinstance(balancer.strategy.scale, EmaNorm)
    average = balancer.strategy.scale.average
    return average.total.clone(), average.count.clone()


def test_unknown_loss_is_named() -> None:
    output = leaf(1, 1, 4)
    with pytest.raises(ValueError, match=r"no weight for the loss mell; .*'a', 'b'"):
        encodec(PAIR)(linear(output, noise("ab", (1, 1, 4), 0)) | {"mell": output.sum()}, output)


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_invalid_weights_are_errors(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="loss weights must be"):
        weighted_sum(weights)


def test_outputs_that_are_not_a_float32_leaf_are_errors() -> None:
    for output in (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4, dtype=torch.bfloat16, requires_grad=True)):
        with pytest.raises(ValueError, match="must be float32 and require a gradient"):
            weighted_sum(PAIR)({"a": output.sum()}, output)


@pytest.mark.parametrize("make", [encodec, weighted_sum])
def test_missing_and_constant_losses_are_inactive(make: type) -> None:
    gradients = noise("ab", (2, 1, 9), seed=1)
    output = leaf(2, 1, 9)
    losses = linear(output, gradients)
    alone = make({"b": 3.0})({"b": losses["b"]}, output)
    for partial in ({"b": losses["b"]}, {"a": torch.tensor(5.0), "b": losses["b"]}):
        result = make(PAIR)(partial, output)
        assert_close(result.gradient, alone.gradient)
        assert result.weights["a"] == 0
        assert result.weights["b"] == alone.weights["b"]
        assert result.dropped == ()


@pytest.mark.parametrize("make", [encodec, weighted_sum])
@pytest.mark.parametrize("monitor_every", [0, 1])
def test_no_active_loss_gives_a_zero_gradient(make: type, monitor_every: int) -> None:
    output = leaf(2, 1, 9)
    for losses in ({}, {"a": torch.tensor(1.0)}, {"a": output.sum() * float("nan")}):
        result = make(PAIR, monitor_every=monitor_every)(losses, output)
        assert torch.equal(result.gradient, torch.zeros(2, 1, 9))
        assert set(result.weights) == set(PAIR)
        assert not any(result.weights.values())
        assert result.dropped == (("a",) if "a" in losses and not losses["a"].isfinite() else ())


@pytest.mark.parametrize("kind", ["nan loss", "inf loss", "-inf loss", "nan gradient", "inf gradient"])
def test_encodec_drops_a_loss_that_is_not_finite(kind: str) -> None:
    balancer, untouched = encodec(PAIR), encodec(PAIR)
    for seed in range(6):
        output = leaf(2, 1, 9)
        losses = linear(output, noise("ab", (2, 1, 9), seed))
        if seed == 3:
            before = state(balancer)
            result = balancer(losses | {"a": not_finite(output, kind)}, output)
            assert_close(result.gradient, untouched({"b": losses["b"]}, output).gradient)
            assert result.gradient.isfinite().all()
            assert result.dropped == ("a",)
            assert result.weights["a"] == 0
            assert [now[0] for now in state(balancer)] == [then[0] for then in before]
        else:
            result = balancer(losses, output)
            assert torch.equal(result.gradient, untouched(losses, output).gradient)
            assert result.dropped == ()


@pytest.mark.parametrize("monitor_every", [0, 1])
@pytest.mark.parametrize("kind", ["nan loss", "inf loss", "-inf loss"])
def test_weighted_sum_drops_a_loss_that_is_not_finite(kind: str, monitor_every: int) -> None:
    output = leaf(2, 1, 9)
    gradients = noise("ab", (2, 1, 9), seed=1)
    result = weighted_sum(PAIR, monitor_every)(linear(output, gradients) | {"a": not_finite(output, kind)}, output)
    assert_close(result.gradient, 3 * gradients["b"])
    assert result.dropped == ("a",)


@pytest.mark.parametrize("monitor_every", [0, 1])
def test_weighted_sum_passes_on_a_gradient_that_is_not_finite(monitor_every: int) -> None:
    """Only the sum is computed, also in monitoring steps. The caller must skip the step; the next one is finite."""
    output = leaf(2, 1, 9)
    losses = linear(output, noise("ab", (2, 1, 9), seed=1))
    balancer = weighted_sum(PAIR, monitor_every)
    assert balancer(losses | {"a": nan_gradient(output)}, output).gradient.isnan().all()
    assert_close(balancer(losses, output).gradient, weighted_sum(PAIR)(losses, output).gradient)


@pytest.mark.parametrize(("absence", "present_before"), [(0.0, False), (1e-42, True), (None, True)])
def test_a_loss_that_returns_after_a_long_absence_gets_its_share(absence: float | None, present_before: bool) -> None:
    """In between its gradient is zero or underflows, or it has no value.

    An average of decay 0.9 forgets as much in 60 steps as one of 0.999 in 6300: a factor of 600.
    """
    gradients = {"a": torch.tensor([[[3.0, 4.0, 0.0]]]), "b": torch.tensor([[[0.0, 0.0, 2.0]]])}
    balancer = encodec(PAIR, decay=0.9)
    output = leaf(1, 1, 3)
    present = linear(output, gradients)
    absent = {"b": present["b"]}
    if absence is not None:
        absent["a"] = output.sum() * absence
    if present_before:
        balancer(present, output)
    for _ in range(60):
        result = balancer(absent, output)
    assert_close(result.gradient, torch.tensor([[[0.0, 0.0, 1.0]]]))
    assert_close(balancer(present, output).gradient, torch.tensor([[[0.15, 0.2, 0.75]]]))


def test_fixed_magnitude_keeps_a_zero_gradient_zero() -> None:
    gradient = noise("a", (1, 1, 50), seed=3)["a"]
    for pair in (torch.zeros(1, 1, 50), -gradient / 3.0):
        output = leaf(1, 1, 50)
        losses = linear(output, {"a": 0 * gradient if not pair.any() else gradient, "b": pair})
        assert fixed_sum(PAIR, 1.0)(losses, output).gradient.abs().max() == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-36, 1e-40, 1e30])
def test_extreme_norms_stay_finite(scale: float) -> None:
    output = leaf(2, 1, 9)
    losses = linear(output, {n: scale * g for n, g in noise("ab", (2, 1, 9), seed=1).items()})
    for balancer in (encodec(PAIR, monitor_every=1), encodec(PAIR, decay=0.0), fixed_sum(PAIR, 1.0)):
        result = balancer(losses, output)
        assert result.gradient.isfinite().all()
        if result.report is not None:
            assert all(part.isfinite().all() for part in result.report[1:])


# State


@pytest.mark.parametrize("norm_over", ["item", "batch"])
def test_state_resumes_bit_for_bit(norm_over: str) -> None:
    def run(balancer: Balancer, seeds: range) -> list[Tensor]:
        results = []
        for seed in seeds:
            output = leaf(2, 1, 9)
            result = balancer(linear(output, noise("ab", (2, 1, 9), seed)), output)
            results += [result.gradient, torch.tensor(result.report is not None)]
        return results

    uninterrupted, stopped, resumed = (encodec(PAIR, 7, decay=0.9, norm_over=norm_over) for _ in range(3))
    expected = run(uninterrupted, range(20))
    got = run(stopped, range(10))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    got += run(resumed, range(10, 20))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("names", ["ba", "ac", "abc"])
def test_state_of_other_losses_is_an_error(names: str) -> None:
    with pytest.raises(ValueError, match=r"for the losses \['a', 'b'\], but the balancer"):
        encodec(dict.fromkeys(names, 1.0)).load_state_dict(encodec(PAIR).state_dict())
