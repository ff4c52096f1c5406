"""Every slot of a strategy can be overridden. `test_strategies_contract` tests every YAML in configs/balancer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from balancer import (
    Balancer,
    EmaNorm,
    Static,
)
from balancer_inputs import leaf, linear, noise

CONFIGS = Path(__file__).parents[2] / "configs"


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
