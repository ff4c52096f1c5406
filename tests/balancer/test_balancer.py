"""The balancer against worked numbers and an independent implementation, and its invariances."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from balancer import Balanced, Balancer, EmaNorm, Fixed, Keep, Statistics, Sum
from balancer_inputs import ReferenceBalancer, encodec, fixed_sum, leaf, linear, noise, weighted_sum
from pretended_device import pretended_cuda

# Two batch items, two losses. The norms are 2.5 and 1 per item, 5 and sqrt(2) over the batch.
EXAMPLE = {"a": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "b": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
THREE = {"a": 1.0, "b": 3.0, "c": 0.5}
NAMES = "abcdefgh"


def step(balancer: Balancer, gradients: Mapping[str, Tensor]) -> Balanced:
    """One call with losses that have these gradients; the first axis is the batch."""
    output = leaf(*next(iter(gradients.values())).shape)
    return balancer(linear(output, gradients), output)


def every_engine(weights: Mapping[str, float]) -> list[Balancer]:
    return [encodec(weights), encodec(weights, norm_over="batch"), weighted_sum(weights), fixed_sum(weights, 2.0)]


# Worked numbers


@pytest.mark.parametrize(
    ("weights", "norm_over", "expected"),
    [
        ({"a": 1, "b": 3}, "item", [[1.05, 0.4], [0, 0.75]]),
        ({"a": 1, "b": 3}, "batch", [[0.680330, 0.2], [0, 0.530330]]),
        ({"a": 1, "b": 0}, "item", [[1.2, 1.6], [0, 0]]),
    ],
)
def test_encodec_example(weights: dict[str, float], norm_over: str, expected: list[list[float]]) -> None:
    result = step(encodec(weights, norm_over=norm_over), EXAMPLE)
    assert_close(result.gradient, torch.tensor(expected), atol=1e-6, rtol=0)


def test_weighted_sum_example() -> None:
    assert step(weighted_sum({"a": 1, "b": 3}), EXAMPLE).gradient.tolist() == [[6, 4], [0, 3]]


def test_moving_average_example() -> None:
    balancer = encodec({"a": 1, "b": 1}, decay=0.5)
    first = step(balancer, EXAMPLE)
    second = step(balancer, {"a": 3 * EXAMPLE["a"], "b": EXAMPLE["b"]})
    assert_close(first.gradient, torch.tensor([[1.1, 0.8], [0, 0.5]]))
    assert_close(second.gradient, torch.tensor([[1.271429, 1.028571], [0, 0.5]]), atol=1e-6, rtol=0)


def test_encodecs_own_test() -> None:
    output = leaf(1, 1, 1)
    losses = {"up": (output - 1).abs().mean(), "down": 100 * (output + 1).abs().mean()}
    assert weighted_sum({"up": 1, "down": 1})(losses, output).gradient.item() == 99
    assert abs(encodec({"up": 1, "down": 1})(losses, output).gradient.item()) < 1e-7


def test_monitoring_example() -> None:
    gradients = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[0.0, 2.0]])}
    report = step(weighted_sum({"a": 1, "b": 5}, monitor_every=1), gradients).report
    assert report is not None
    assert report.names == ("a", "b")
    assert_close(report.norms, torch.tensor([5.0, 2.0], dtype=torch.float64))
    assert_close(report.shares, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    assert_close(report.cosines, torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64))
    assert report.norm.item() == pytest.approx(math.hypot(3, 14))


# Against independent implementations


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("norm_over", ["item", "batch"])
def test_encodec_is_audiocrafts_balancer_over_50_steps(count: int, decay: float, norm_over: str) -> None:
    weights = {name: 0.1 + index for index, name in enumerate(NAMES[:count])}
    ours = encodec(weights, decay=decay, total_norm=0.7, norm_over=norm_over)
    reference = ReferenceBalancer(weights, decay, 0.7, per_item=norm_over == "item")
    for seed in range(50):
        gradients = noise(NAMES[:count], (3, 2, 11), seed, spread=10.0 * (1 + seed))
        if seed % 7 == 3 and count > 1:
            del gradients["a"]
        expected = torch.from_numpy(reference(gradients))
        assert_close(step(ours, gradients).gradient.double(), expected, rtol=1e-6, atol=1e-6 * expected.abs().max())


@pytest.mark.parametrize("count", [1, 3, 8])
def test_weighted_sum_is_the_backward_of_the_weighted_sum(count: int) -> None:
    weights = {name: 0.1 + index for index, name in enumerate(NAMES[:count])}
    output = torch.randn(2, 1, 50, requires_grad=True)
    targets = torch.randn(count, 2, 1, 50)
    losses = {name: (output - target).abs().pow(1.5).mean() for name, target in zip(weights, targets, strict=True)}
    result = weighted_sum(weights)(losses, output)
    torch.stack([weights[name] * losses[name] for name in weights]).sum().backward()
    assert_close(result.gradient, output.grad)
    assert {name: weight.item() for name, weight in result.weights.items()} == weights


def test_norms_that_spread_over_six_decades() -> None:
    weights = dict.fromkeys(NAMES, 1.0)
    gradients = noise(NAMES, (2, 1, 500), seed=1, spread=1e6)
    expected = torch.from_numpy(ReferenceBalancer(weights, 0.999, 1.0, per_item=True)(gradients))
    assert_close(step(encodec(weights), gradients).gradient.double(), expected, rtol=1e-6, atol=1e-6)
    result = step(Balancer(weights, EmaNorm(), Sum(), Keep(), monitor_every=1), gradients)
    rows = torch.stack([gradients[name].flatten().double() for name in NAMES])
    assert result.report is not None
    assert_close(result.report.cosines, torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2))


# Properties


@pytest.mark.parametrize("engine", range(4))
def test_gradient_is_the_sum_with_the_reported_weights(engine: int) -> None:
    gradients = noise("abc", (2, 1, 30), seed=4)
    result = step(every_engine(THREE)[engine], gradients)
    expected = torch.stack([result.weights[name] * gradients[name].double() for name in THREE]).sum(0)
    assert_close(result.gradient.double(), expected, rtol=1e-5, atol=1e-6)


def test_multiplying_a_loss_by_1000() -> None:
    gradients = noise("abc", (2, 1, 30), seed=2)
    louder = gradients | {"b": 1000 * gradients["b"]}
    plain, scaled = encodec(THREE), encodec(THREE)
    for _ in range(3):
        assert_close(step(scaled, louder).gradient, step(plain, gradients).gradient)
    change = step(weighted_sum(THREE), louder).gradient - step(weighted_sum(THREE), gradients).gradient
    assert_close(change, 3.0 * 999 * gradients["b"])


@pytest.mark.parametrize("engine", range(4))
def test_opposed_gradients_of_equal_weight_cancel(engine: int) -> None:
    up = noise("a", (2, 1, 30), seed=5)["a"]
    assert step(every_engine({"a": 2, "b": 2})[engine], {"a": up, "b": -up}).gradient.abs().max() < 1e-7


@pytest.mark.parametrize(("norm_over", "growth"), [("item", 2.0), ("batch", math.sqrt(2))])
def test_batch_invariant_parameter_gradients_do_not_depend_on_the_batch_size(norm_over: str, growth: float) -> None:
    def parameter_gradient(audio: Tensor, batch_invariant: bool) -> Tensor:
        parameter = torch.ones(8, requires_grad=True)
        output = (audio * parameter).detach().requires_grad_()
        losses = {"a": (output - 0.3).abs().mean(), "b": output.square().mean()}
        balancer = encodec({"a": 1, "b": 2}, norm_over=norm_over, batch_invariant=batch_invariant)
        (audio * parameter).backward(balancer(losses, output).gradient)
        assert parameter.grad is not None
        return parameter.grad

    audio = torch.randn(3, 1, 8)
    twice = audio.repeat(2, 1, 1)
    assert_close(parameter_gradient(twice, True), parameter_gradient(audio, True))
    assert_close(parameter_gradient(twice, False), growth * parameter_gradient(audio, False))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6])
def test_fixed_magnitude_sets_the_norm(scale: float) -> None:
    gradients = {name: scale * gradient for name, gradient in noise("abc", (2, 1, 500), seed=6, spread=1e6).items()}
    result = step(fixed_sum(THREE, norm=2.5), gradients)
    assert torch.linalg.vector_norm(result.gradient).item() == pytest.approx(2.5, rel=1e-5)
    assert_close(
        result.gradient / 2.5,
        torch.nn.functional.normalize(sum(THREE[n] * gradients[n] for n in THREE) / scale, dim=None),
    )


def test_monitoring_step_gives_the_ordinary_gradient() -> None:
    gradients = noise("abc", (2, 1, 300), seed=7, spread=100)
    for ordinary, monitoring in (
        (weighted_sum(THREE), weighted_sum(THREE, monitor_every=1)),
        (encodec(THREE), encodec(THREE, monitor_every=1)),
    ):
        result, monitored = step(ordinary, gradients), step(monitoring, gradients)
        assert result.report is None
        assert monitored.report is not None
        assert_close(monitored.gradient, result.gradient)
        assert monitored.weights == result.weights


def test_reports_come_every_monitor_every_steps() -> None:
    balancer = weighted_sum(THREE, monitor_every=3)
    found = [step(balancer, noise("abc", (1, 1, 4), seed)).report is not None for seed in range(7)]
    assert found == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_number_of_backward_passes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or original(*a, **k))
    weights = dict.fromkeys(NAMES[:count], 1.0)
    gradients = noise(NAMES[:count], (1, 1, 4), seed=0)
    for balancer, expected in (
        (weighted_sum(weights), 1),
        (weighted_sum(weights, monitor_every=1), count + 1),
        (encodec(weights, monitor_every=1), count),
    ):
        calls.clear()
        step(balancer, gradients)
        assert len(calls) == expected


@pytest.mark.parametrize("engine", range(4))
def test_a_step_waits_once_for_the_device(engine: int) -> None:
    balancer = every_engine(THREE)[engine]
    with pretended_cuda() as log:
        gradients = {name: rows.to("cuda") for name, rows in noise("abc", (2, 1, 4), seed=0).items()}
        for _ in range(2):  # the first step does not know yet what the strategy measures
            output = torch.zeros(2, 1, 4, device="cuda", requires_grad=True)
            losses = linear(output, gradients)
            log.clear()
            result = balancer(losses, output)
        assert log.waits_by_function() == {"balancer/balancer.py Balancer._read": 1}
        assert result.gradient.is_cuda


def test_graphs_of_the_losses_are_kept() -> None:
    output, shared = torch.randn(1, 1, 9, requires_grad=True), torch.ones(9, requires_grad=True)
    losses = {"a": (output * shared).square().mean(), "b": (output * shared).abs().mean()}
    for balancer in (weighted_sum({"a": 1, "b": 1}), encodec({"a": 1, "b": 1})):
        balancer(losses, output)
        assert output.grad is None
        assert shared.grad is None
    sum(losses.values()).backward()
    assert shared.grad is not None
    assert shared.grad.abs().min() > 0


@pytest.mark.parametrize("engine", range(4))
def test_autocast_around_the_call_changes_nothing(engine: int) -> None:
    gradients = noise("abc", (2, 1, 300), seed=8)
    plain = step(every_engine(THREE)[engine], gradients)
    output = leaf(2, 1, 300)
    losses = linear(output, gradients)
    with torch.autocast("cpu", torch.bfloat16):
        result = every_engine(THREE)[engine](losses, output)
    assert torch.equal(result.gradient, plain.gradient)


@pytest.mark.parametrize("engine", range(4))
def test_same_calls_give_the_same_bits(engine: int) -> None:
    first, second = every_engine(THREE)[engine], every_engine(THREE)[engine]
    for seed in range(5):
        gradients = noise("abc", (2, 1, 300), seed)
        assert torch.equal(step(first, gradients).gradient, step(second, gradients).gradient)


# Statistics of scaled losses, the input of a direction


def test_scaled_statistics_are_those_of_the_scaled_gradients() -> None:
    gradients = torch.randn(4, 2, 1, 20)
    factors = torch.tensor([2.0, -0.5, 1e-3, 0.0], dtype=torch.float64)
    ones = torch.ones(4, dtype=torch.float64)
    index = torch.arange(4)
    raw = Statistics(index, ones, ones, gradients)
    direct = Statistics(index, ones, ones, (factors[:, None, None, None] * gradients).float())
    for lazy in (raw.scaled(factors), raw.scaled(torch.full_like(factors, 4.0)).scaled(factors / 4)):
        assert_close(lazy.losses, factors)
        for name in ("jacobian", "norms", "item_norms", "gramian"):
            assert_close(getattr(lazy, name), getattr(direct, name), rtol=1e-6, atol=1e-7)
        assert_close(lazy.cosines[:3, :3], direct.cosines[:3, :3], rtol=1e-6, atol=1e-7)
    assert_close(raw.gramian, raw.jacobian.double() @ raw.jacobian.double().t())


def test_statistics_without_gradients_name_the_missing_attribute() -> None:
    ones = torch.ones(1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="needs_gradients"):
        _ = Statistics(torch.arange(1), ones, ones, None).norms


def test_settings_out_of_range_are_errors() -> None:
    for settings in ({"decay": 1.0}, {"decay": -0.1}, {"total_norm": 0.0}, {"norm_over": "sample"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            EmaNorm(**settings)
    with pytest.raises(ValueError, match=r"norm must be in \(0, inf\), got 0.0"):
        Fixed(0.0)
