"""The slots host what the literature does: a learnt scale, a direction from the Gramian, a schedule; and the YAMLs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from balancer_inputs import leaf, linear, noise
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.testing import assert_close

from balancer import Balancer, EmaNorm, Fixed, Keep, Scale, Static, Statistics, Sum

CONFIGS = Path(__file__).parents[1] / "configs"


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
            raise ValueError("MinimumNorm has no use for weights")

    def __call__(self, statistics: Statistics) -> Tensor:
        gramian = statistics.gramian
        first = ((gramian[1, 1] - gramian[0, 1]) / (gramian[0, 0] + gramian[1, 1] - 2 * gramian[0, 1])).clamp(0, 1)
        return torch.stack([first, 1 - first])


class SumLength:
    """As long as the plain weighted sum."""

    needs_gradients = True

    def __call__(self, statistics: Statistics, weights: Tensor) -> Tensor:
        plain, got = (statistics.scaled(w).gramian.sum().sqrt() for w in (statistics.user_weights, weights))
        return plain / got


class After(nn.Module):
    """One scale for so many steps, then another."""

    def __init__(self, steps: int, first: Scale, then: Scale) -> None:
        super().__init__()
        self.left, self.first, self.then = steps, first, then

    @property
    def needs_gradients(self) -> bool:
        return (self.first if self.left > 0 else self.then).needs_gradients

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.first.prepare(weights)
        self.then.prepare(weights)

    def forward(self, statistics: Statistics) -> Tensor:
        scale = self.first if self.left > 0 else self.then
        self.left -= 1
        return scale(statistics)


def pair(a: list[float], b: list[float]) -> dict[str, Tensor]:
    return {"a": torch.tensor([[a]]), "b": torch.tensor([[b]])}


def test_a_scale_with_learnt_state() -> None:
    balancer = Balancer({"a": 1, "b": 1}, Uncertainty(), Sum(), Keep())
    output = leaf(1, 1, 2)
    losses = {"a": output.sum() + 4.0, "b": output.sum() + 0.5}
    weights = balancer(losses, output).weights
    assert (weights["a"], weights["b"]) == (0.5, 0.5)
    assert_close(balancer.state_dict()["scale.s"], torch.tensor([0.15, -0.025], dtype=torch.float64))
    for _ in range(300):
        weights = balancer(losses, output).weights
    assert (weights["a"].item(), weights["b"].item()) == pytest.approx((0.125, 1.0), rel=1e-4)


def test_monitoring_does_not_change_what_a_loss_value_scale_sees() -> None:
    often, never = (Balancer({"a": 1, "b": 1}, Uncertainty(), Sum(), Keep(), monitor_every=k) for k in (1, 0))
    for balancer in (often, never):
        for _ in range(5):
            output = leaf(1, 1, 2)
            balancer({"a": (output * 0).sum() + 2.0, "b": output.sum() + 0.5}, output)
    assert torch.equal(often.state_dict()["scale.s"], never.state_dict()["scale.s"])


def test_a_direction_from_the_gramian() -> None:
    balancer = Balancer({"a": 1, "b": 1}, Static(), MinimumNorm(), Keep())
    for gradients, expected in (
        (pair([1, 0, 0], [0, 2, 0]), [0.8, 0.4, 0]),
        (pair([-4, 1, 1], [6, 1, 1]), [0.0, 1.0, 1.0]),
    ):
        output = leaf(1, 1, 3)
        got = balancer(linear(output, gradients), output).gradient
        assert_close(got, torch.tensor([[expected]]), atol=1e-6, rtol=0)


def test_a_direction_sees_what_the_scale_made_of_the_losses() -> None:
    output = leaf(1, 1, 2)
    balancer = Balancer({"a": 1, "b": 1}, EmaNorm(), MinimumNorm(), Keep())
    assert_close(balancer(linear(output, pair([1, 0], [0, 1000])), output).gradient, torch.tensor([[[0.25, 0.25]]]))


def test_a_direction_may_refuse_weights_at_construction() -> None:
    with pytest.raises(ValueError, match="no use for weights"):
        Balancer({"a": 1, "b": 2}, Static(), MinimumNorm(), Keep())


def test_a_magnitude_that_compares_with_the_raw_losses() -> None:
    output = leaf(1, 1, 2)
    result = Balancer({"a": 1, "b": 1}, Static(), MinimumNorm(), SumLength())(
        linear(output, pair([3, 0], [0, 4])), output
    )
    assert torch.linalg.vector_norm(result.gradient).item() == pytest.approx(5.0)


def test_a_schedule_that_starts_to_need_gradients() -> None:
    balancer = Balancer({"a": 1, "b": 1}, After(2, Static(), EmaNorm()), Sum(), Keep(), monitor_every=0)
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
    config = compose(None, overrides=["+losses.weights={a: 0.5, b: 2, c: 0}", *overrides])
    balancer = instantiate(config.balancer, _convert_="all")
    assert isinstance(balancer, Balancer)
    return balancer


@pytest.mark.usefixtures("_configs")
@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "balancer").glob("*.yaml")))
def test_every_config_balances(name: str) -> None:
    balancer = build(f"+balancer={name}")
    assert balancer.weights == {"a": 0.5, "b": 2, "c": 0}
    output = leaf(2, 1, 8)
    result = balancer(linear(output, noise("abc", (2, 1, 8), seed=0)), output)
    assert result.gradient.abs().max() > 0
    assert list(result.weights) == ["a", "b", "c"]


@pytest.mark.usefixtures("_configs")
@pytest.mark.parametrize(
    ("slot", "option"),
    [(slot.name, path.stem) for slot in (CONFIGS / "balancer").iterdir() if slot.is_dir() for path in slot.iterdir()],
)
def test_every_slot_can_be_overridden(slot: str, option: str) -> None:
    balancer = build("+balancer=encodec", f"balancer/{slot}={option}")
    kinds = {
        "ema_norm": EmaNorm,
        "ema_norm_batch_invariant": EmaNorm,
        "static": Static,
        "sum": Sum,
        "keep": Keep,
        "fixed": Fixed,
    }
    assert isinstance(getattr(balancer, slot), kinds[option])


@pytest.mark.usefixtures("_configs")
def test_settings_from_the_command_line() -> None:
    balancer = build(
        "+balancer=encodec",
        "balancer/magnitude=fixed",
        "balancer.magnitude.norm=3",
        "balancer.scale.batch_invariant=true",
    )
    output = leaf(2, 1, 8)
    result = balancer(linear(output, noise("abc", (2, 1, 8), seed=0)), output)
    assert torch.linalg.vector_norm(result.gradient).item() == pytest.approx(3.0, rel=1e-5)
