"""Schedules of the balancer: warm-up strategies and refreshes of the weights."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from balancer import (
    Balancer,
    EmaNorm,
    Keep,
    Static,
    Statistics,
    Sum,
    Warmup,
)
from balancer_inputs import MinimumNorm, leaf, linear, noise, pair


def gradients_of(balancer: Balancer, steps: int, names: str = "ab") -> list[Tensor]:
    """Combined gradients of steps with different raw gradients."""
    found = []
    for seed in range(steps):
        output = leaf(1, 1, 6)
        losses = linear(output, noise("ab", (1, 1, 6), seed, spread=10))
        found.append(balancer({name: losses[name] for name in names}, output).gradient)
    return found


WEIGHTS = {"a": 1.0, "b": 1.0}


def test_a_warm_up_is_another_strategy_and_does_not_affect_the_main_one() -> None:
    warm = Balancer(WEIGHTS, EmaNorm(0.9), Sum(), Keep(), warmup=Warmup(3, Static(), Sum(), Keep()))
    plain, fresh = (Balancer(WEIGHTS, scale, Sum(), Keep()) for scale in (Static(), EmaNorm(0.9)))
    got, before = gradients_of(warm, 8), gradients_of(plain, 8)
    assert all(torch.equal(a, b) for a, b in zip(got[:3], before, strict=False))
    for seed in range(3, 8):
        output = leaf(1, 1, 6)
        expected = fresh(linear(output, noise("ab", (1, 1, 6), seed, spread=10)), output).gradient
        assert torch.equal(got[seed], expected)


def test_a_warm_up_resumes_in_its_middle() -> None:
    def make() -> Balancer:
        return Balancer(WEIGHTS, Static(), Sum(), Keep(), warmup=Warmup(5, EmaNorm(0.9), Sum(), Keep()))

    uninterrupted, stopped, resumed = make(), make(), make()
    expected = gradients_of(uninterrupted, 8)
    gradients_of(stopped, 4)
    resumed.load_state_dict(stopped.state_dict())
    for seed in range(4, 8):
        output = leaf(1, 1, 6)
        assert torch.equal(
            resumed(linear(output, noise("ab", (1, 1, 6), seed, spread=10)), output).gradient, expected[seed]
        )


class Counted(MinimumNorm):
    """Counts its calls."""

    calls = 0

    def __call__(self, statistics: Statistics) -> Tensor:
        self.calls += 1
        return super().__call__(statistics)


@pytest.mark.parametrize("monitor_every", [0, 1])
def test_the_last_weights_are_reused_between_refreshes(monitor_every: int) -> None:
    direction = Counted()
    balancer = Balancer(WEIGHTS, Static(), direction, Keep(), monitor_every, refresh_every=3)
    weights = []
    for seed in range(7):
        output = leaf(1, 1, 6)
        rows = noise("ab", (1, 1, 6), seed, spread=10)
        result = balancer(linear(output, rows), output)
        weights.append((result.weights["a"].item(), result.weights["b"].item()))
        assert_close(result.gradient, weights[-1][0] * rows["a"] + weights[-1][1] * rows["b"])
    assert direction.calls == 3
    assert weights[0] == weights[1] == weights[2] != weights[3] == weights[4] == weights[5] != weights[6]


def test_every_step_is_a_refresh_at_the_start_of_a_strategy() -> None:
    """Three steps after the start of each strategy, then every fourth step of the run."""
    first, then = Counted(), Counted()
    warmup = Warmup(5, Static(), first, Keep())
    balancer = Balancer(WEIGHTS, Static(), then, Keep(), 0, refresh_every=4, refresh_from=3, warmup=warmup)
    calls = []
    for seed in range(14):
        output = leaf(1, 1, 6)
        balancer(linear(output, noise("ab", (1, 1, 6), seed, spread=10)), output)
        calls.append((first.calls, then.calls))
    assert [a for a, _ in calls[:5]] == [1, 2, 3, 3, 4]  # steps 0, 1, 2 and 4
    assert [b for _, b in calls[5:]] == [1, 2, 3, 4, 4, 4, 4, 5, 5]  # steps 5, 6, 7; 8 and 12


def test_a_loss_that_appears_or_disappears_causes_a_refresh() -> None:
    direction = Counted()
    balancer = Balancer(WEIGHTS | {"c": 1.0}, Static(), direction, Keep(), 0, refresh_every=100)
    output = leaf(1, 1, 6)
    losses = linear(output, noise("abc", (1, 1, 6), 0))
    for names, calls in (("ab", 1), ("ab", 1), ("bc", 2), ("bc", 2), ("ab", 3), ("ab", 3)):
        balancer({name: losses[name] for name in names}, output)
        assert direction.calls == calls


def test_weights_are_not_reused_after_a_step_with_a_loss_that_was_not_finite() -> None:
    direction = Counted()
    balancer = Balancer(WEIGHTS | {"c": 1.0}, Static(), direction, Keep(), 0, refresh_every=100)
    output = leaf(1, 1, 6)
    losses = linear(output, noise("abc", (1, 1, 6), 0))
    assert balancer(losses | {"c": losses["c"] * float("nan")}, output).dropped == ("c",)
    assert direction.calls == 1
    balancer({name: losses[name] for name in "ab"}, output)
    assert direction.calls == 2


def test_refreshes_resume_in_their_middle() -> None:
    uninterrupted, stopped, resumed = (
        Balancer(WEIGHTS, EmaNorm(0.9), Sum(), Keep(), 0, refresh_every=4) for _ in range(3)
    )
    expected = gradients_of(uninterrupted, 10)
    gradients_of(stopped, 6)
    resumed.load_state_dict(stopped.state_dict())
    for seed in range(6, 10):
        output = leaf(1, 1, 6)
        assert torch.equal(
            resumed(linear(output, noise("ab", (1, 1, 6), seed, spread=10)), output).gradient, expected[seed]
        )


@pytest.mark.parametrize("refresh_every", [1, 2, 5])
def test_averages_keep_their_time_constant_for_any_refresh_interval(refresh_every: int) -> None:
    """Norms that are constant between refreshes give the same averages as a refresh in every step."""
    often = Balancer(WEIGHTS, EmaNorm(0.9), Sum(), Keep(), 0)
    seldom = Balancer(WEIGHTS, EmaNorm(0.9), Sum(), Keep(), 0, refresh_every=refresh_every)
    for norm in [1.0, *(norm for norm in (3.0, 2.0, 5.0) for _ in range(refresh_every))]:
        output = leaf(1, 1, 2)
        losses = linear(output, pair([norm, 0], [0, 1]))
        expected, found = often(losses, output), seldom(losses, output)
    assert_close(found.gradient, expected.gradient)
    assert found.weights["a"].item() == pytest.approx(expected.weights["a"].item(), rel=1e-12)


def test_a_refresh_counts_for_the_steps_since_the_last_one() -> None:
    """Worked by hand: decay 1/2, a refresh every three steps, norms 1 and then 4."""
    balancer = Balancer(WEIGHTS, EmaNorm(0.5), Sum(), Keep(), 0, refresh_every=3)
    for norm in (1.0, 7.0, 7.0, 4.0):
        output = leaf(1, 1, 2)
        balancer(linear(output, pair([norm, 0], [0, 1])), output)
    # total = 1/8 * 1 + (1 + 1/2 + 1/4) * 4, count = 1/8 + 7/4
    average = balancer.strategy.scale.average
    assert average.total[0].item() == pytest.approx(7.125)
    assert average.count[0].item() == pytest.approx(1.875)


class Infinite(MinimumNorm):
    """A strategy with infinite weights."""

    def __call__(self, statistics: Statistics) -> Tensor:
        return super().__call__(statistics) * float("inf")


def test_weights_that_are_not_finite_are_reported_and_not_reused() -> None:
    output = leaf(1, 1, 2)
    losses = linear(output, pair([3, 0], [0, 4]))
    balancer = Balancer(WEIGHTS, Static(), Infinite(), Keep(), refresh_every=5)
    assert not balancer(losses, output).is_finite
    balancer.strategy.direction = MinimumNorm()
    assert balancer(losses, output).is_finite


def test_settings_of_the_schedule_are_checked() -> None:
    with pytest.raises(ValueError, match=r"refresh_every must be in \[1, inf\), got 0"):
        Balancer(WEIGHTS, Static(), Sum(), Keep(), refresh_every=0)
    with pytest.raises(ValueError, match=r"refresh_from must be in \[0, inf\), got -1"):
        Balancer(WEIGHTS, Static(), Sum(), Keep(), refresh_from=-1)
    with pytest.raises(ValueError, match=r"warmup.steps must be in \[1, inf\), got 0"):
        Balancer(WEIGHTS, Static(), Sum(), Keep(), warmup=Warmup(0, Static(), Sum(), Keep()))
