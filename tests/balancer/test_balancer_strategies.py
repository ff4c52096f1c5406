"""Strategies from outside the package: a learnt scale, a direction from the Gramian, schedules. And the YAMLs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

from balancer import (
    Balancer,
    EmaNorm,
    Fixed,
    Keep,
    Magnitude,
    MatchSum,
    Scale,
    Static,
    Statistics,
    Sum,
    SumOfNorms,
    Warmup,
)
from balancer.strategy import UsesLossWeights
from balancer_inputs import leaf, linear, noise

CONFIGS = Path(__file__).parents[2] / "configs"


class Uncertainty(nn.Module):
    """Kendall et al. 2018: 0.5 exp(-s) L + 0.5 s with s learnt by gradient descent."""

    needs_gradients = False
    s: Tensor

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("s", torch.zeros(len(weights), dtype=torch.float64))

    def forward(self, statistics: Statistics) -> Tensor:
        factors = 0.5 * torch.exp(-self.s[statistics.index])
        self.s[statistics.index] += 0.1 * (factors * statistics.losses - 0.5)
        return factors


class MinimumNorm:
    """MGDA for two losses: the shortest point of the segment between the gradients."""

    needs_gradients = True

    def prepare(self, weights: Mapping[str, float]) -> None:
        if len(set(weights.values())) > 1:
            raise ValueError("MinimumNorm does not support weights")

    def __call__(self, statistics: Statistics) -> Tensor:
        gramian = statistics.gramian
        first = ((gramian[1, 1] - gramian[0, 1]) / (gramian[0, 0] + gramian[1, 1] - 2 * gramian[0, 1])).clamp(0, 1)
        return torch.stack([first, 1 - first])


class Sequence(nn.Module):
    """One scale for `steps` steps, then another."""

    def __init__(self, steps: int, first: Scale, then: Scale) -> None:
        super().__init__()
        self.remaining, self.first, self.then = steps, first, then

    @property
    def needs_gradients(self) -> bool:
        return (self.first if self.remaining > 0 else self.then).needs_gradients

    def prepare(self, weights: Mapping[str, float]) -> None:
        for scale in (self.first, self.then):
            if isinstance(scale, UsesLossWeights):
                scale.prepare(weights)

    def forward(self, statistics: Statistics) -> Tensor:
        scale = self.first if self.remaining > 0 else self.then
        self.remaining -= 1
        return scale(statistics)


def pair(a: list[float], b: list[float]) -> dict[str, Tensor]:
    return {"a": torch.tensor([[a]]), "b": torch.tensor([[b]])}


def test_a_scale_with_learnt_state() -> None:
    balancer = Balancer({"a": 1, "b": 1}, Uncertainty(), Sum(), Keep())
    output = leaf(1, 1, 2)
    losses = {"a": output.sum() + 4.0, "b": output.sum() + 0.5}
    weights = balancer(losses, output).weights
    assert (weights["a"], weights["b"]) == (0.5, 0.5)
    assert_close(balancer.state_dict()["strategy.scale.s"], torch.tensor([0.15, -0.025], dtype=torch.float64))
    for _ in range(300):
        weights = balancer(losses, output).weights
    assert (weights["a"].item(), weights["b"].item()) == pytest.approx((0.125, 1.0), rel=1e-4)


def test_monitoring_does_not_affect_a_scale_of_loss_values() -> None:
    often, never = (Balancer({"a": 1, "b": 1}, Uncertainty(), Sum(), Keep(), monitor_every=k) for k in (1, 0))
    for balancer in (often, never):
        for _ in range(5):
            output = leaf(1, 1, 2)
            balancer({"a": (output * 0).sum() + 2.0, "b": output.sum() + 0.5}, output)
    assert torch.equal(often.state_dict()["strategy.scale.s"], never.state_dict()["strategy.scale.s"])


def test_a_direction_from_the_gramian() -> None:
    balancer = Balancer({"a": 1, "b": 1}, Static(), MinimumNorm(), Keep())
    for gradients, expected in (
        (pair([1, 0, 0], [0, 2, 0]), [0.8, 0.4, 0]),
        (pair([-4, 1, 1], [6, 1, 1]), [0.0, 1.0, 1.0]),
    ):
        output = leaf(1, 1, 3)
        got = balancer(linear(output, gradients), output).gradient
        assert_close(got, torch.tensor([[expected]]), atol=1e-6, rtol=0)


def test_a_direction_gets_the_scaled_losses() -> None:
    output = leaf(1, 1, 2)
    balancer = Balancer({"a": 1, "b": 1}, EmaNorm(), MinimumNorm(), Keep())
    assert_close(balancer(linear(output, pair([1, 0], [0, 1000])), output).gradient, torch.tensor([[[0.25, 0.25]]]))


def test_a_direction_may_reject_weights_at_construction() -> None:
    with pytest.raises(ValueError, match="does not support weights"):
        Balancer({"a": 1, "b": 2}, Static(), MinimumNorm(), Keep())


@pytest.mark.parametrize(("magnitude", "norm"), [(MatchSum(), 5.0), (SumOfNorms(), 7.0), (Fixed(2.0), 2.0)])
def test_magnitudes_set_the_norm_and_keep_the_direction(magnitude: Magnitude, norm: float) -> None:
    output = leaf(1, 1, 2)
    losses = linear(output, pair([3, 0], [0, 4]))
    kept, got = (Balancer({"a": 1, "b": 1}, Static(), MinimumNorm(), m)(losses, output) for m in (Keep(), magnitude))
    assert torch.linalg.vector_norm(got.gradient).item() == pytest.approx(norm)
    assert_close(got.gradient / norm, kept.gradient / torch.linalg.vector_norm(kept.gradient))
    ratios = [(got.weights[name] / kept.weights[name]).item() for name in "ab"]
    assert ratios == pytest.approx([ratios[0]] * 2)


@pytest.mark.parametrize("magnitude", [MatchSum(), SumOfNorms(), Fixed(2.0), Fixed(2.0, "item")])
def test_no_magnitude_lengthens_gradients_that_cancel(magnitude: Magnitude) -> None:
    output = leaf(1, 1, 50)
    gradient = noise("a", (1, 1, 50), seed=3)["a"]
    balancer = Balancer({"a": 1, "b": 3}, Static(), Sum(), magnitude)
    assert balancer(linear(output, {"a": gradient, "b": -gradient / 3}), output).gradient.abs().max() == 0


@pytest.mark.parametrize("items", [1, 4])
def test_fixed_per_item_does_not_depend_on_the_batch(items: int) -> None:
    output = leaf(items, 1, 2)
    got = Balancer({"a": 1}, Static(), Sum(), Fixed(2.0, "item"))({"a": output.sum()}, output).gradient
    assert_close(torch.linalg.vector_norm(got.flatten(1), dim=1), torch.full((items,), 2.0))


class Mask:
    """Passes each loss on its own half of the output."""

    needs_gradients = True

    def __call__(self, statistics: Statistics) -> Tensor:
        return torch.block_diag(*[torch.ones(1, 2)] * 2)[:, : statistics.jacobian.shape[1]]


def test_a_direction_with_a_weight_for_every_element() -> None:
    output = leaf(1, 1, 4)
    balancer = Balancer({"a": 1, "b": 10}, Static(), Mask(), Keep(), monitor_every=1)
    result = balancer(linear(output, pair([3, 4, 9, 9], [9, 9, 0.6, 0.8])), output)
    assert_close(result.gradient, torch.tensor([[[3.0, 4.0, 6.0, 8.0]]]))
    assert (result.weights["a"].item(), result.weights["b"].item()) == pytest.approx((0.5, 5.0))
    assert result.report is not None
    assert_close(result.report.shares, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    assert_close(result.report.projections, torch.tensor([0.2, 0.8], dtype=torch.float64))
    fixed = Balancer({"a": 1, "b": 10}, Static(), Mask(), Fixed(1.0))
    got = fixed(linear(output, pair([3, 4, 9, 9], [9, 9, 0.6, 0.8])), output).gradient
    assert torch.linalg.vector_norm(got).item() == pytest.approx(1.0)


# Schedules


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


def test_a_scale_that_starts_to_need_gradients() -> None:
    balancer = Balancer({"a": 1, "b": 1}, Sequence(2, Static(), EmaNorm()), Sum(), Keep(), monitor_every=0)
    found = []
    for _ in range(3):
        output = leaf(1, 1, 2)
        found.append(balancer(linear(output, pair([3, 0], [0, 4])), output).gradient.flatten().tolist())
    assert found == [[3, 4], [3, 4], [0.5, 0.5]]


# Configs


@pytest.fixture
def _configs() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        yield


def build(*overrides: str) -> Balancer:
    config = compose(None, overrides=["+losses.weights={mel: 0.5, adversarial: 2, l1: 0}", *overrides])
    balancer = instantiate(config.balancer, _convert_="all")
    assert isinstance(balancer, Balancer)
    return balancer


def named_losses(output: Tensor) -> dict[str, Tensor]:
    rows = noise("abc", tuple(output.shape), seed=0)
    return linear(output, dict(zip(("mel", "adversarial", "l1"), rows.values(), strict=True)))


@pytest.mark.usefixtures("_configs")
@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "balancer").glob("*.yaml")))
def test_every_config_balances(name: str) -> None:
    balancer = build(f"+balancer={name}")
    assert balancer.weights == {"mel": 0.5, "adversarial": 2, "l1": 0}
    output = leaf(2, 1, 8)
    result = balancer(named_losses(output), output, lambda gradient, layers: gradient[0])
    assert result.gradient.abs().max() > 0
    assert list(result.weights) == ["mel", "adversarial", "l1"]


@pytest.mark.usefixtures("_configs")
@pytest.mark.parametrize(
    ("slot", "option"),
    [(slot, p.stem) for slot in ("scale", "direction", "magnitude") for p in (CONFIGS / "balancer" / slot).iterdir()],
)
def test_every_slot_can_be_overridden(slot: str, option: str) -> None:
    balancer = build("+balancer=encodec", f"balancer/{slot}={option}")
    expected = OmegaConf.load(CONFIGS / "balancer" / slot / f"{option}.yaml")
    while "_target_" not in expected:
        expected = OmegaConf.load(CONFIGS / "balancer" / slot / f"{expected.defaults[0]}.yaml")
    assert type(getattr(balancer.strategy, slot)).__name__ == expected._target_.rpartition(".")[2]


@pytest.mark.usefixtures("_configs")
def test_any_strategy_can_be_the_warm_up_of_any_other() -> None:
    balancer = build(
        "+balancer=weighted_sum", "balancer/warmup=encodec", "balancer/direction@balancer.warmup.direction=mgda",
        "balancer.warmup.steps=7",
    )  # fmt: skip
    assert balancer.warmup_steps == 7
    assert balancer.warmup is not None
    assert isinstance(balancer.warmup.scale, EmaNorm)
    assert type(balancer.warmup.direction).__name__ == "MGDA"
    assert isinstance(balancer.strategy.scale, Static)


@pytest.mark.usefixtures("_configs")
def test_settings_from_the_command_line() -> None:
    balancer = build(
        "+balancer=encodec",
        "balancer/magnitude=fixed",
        "balancer.magnitude.norm=3",
        "balancer.scale.batch_invariant=true",
    )
    output = leaf(2, 1, 8)
    result = balancer(named_losses(output), output)
    assert torch.linalg.vector_norm(result.gradient).item() == pytest.approx(3.0, rel=1e-5)
