"""Strategies from outside the package: a learnt scale, directions from the Gramian or per element; magnitudes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
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
)
from balancer.strategy import UsesLossWeights
from balancer_inputs import MinimumNorm, leaf, linear, noise, pair

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


def test_a_scale_that_starts_to_need_gradients() -> None:
    balancer = Balancer({"a": 1, "b": 1}, Sequence(2, Static(), EmaNorm()), Sum(), Keep(), monitor_every=0)
    found = []
    for _ in range(3):
        output = leaf(1, 1, 2)
        found.append(balancer(linear(output, pair([3, 0], [0, 4])), output).gradient.flatten().tolist())
    assert found == [[3, 4], [3, 4], [0.5, 0.5]]
