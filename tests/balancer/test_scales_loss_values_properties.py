"""Properties of every scale that uses loss values: finite factors, state of active losses only, settings."""

import inspect
import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from balancer import Balancer, Keep, Sum
from balancer.scales.amnl import AMNL
from balancer.scales.baseline_loss import BaselineLoss
from balancer.scales.dwa import DWA
from balancer.scales.famo import FAMO
from balancer.scales.first_epoch import FirstEpoch
from balancer.scales.gls import GLS
from balancer.scales.imtl_l import IMTLL
from balancer.scales.initial_loss import InitialLoss
from balancer.scales.lr_modulation import LRModulation
from balancer.scales.realtime_loss import RealtimeLoss
from balancer.scales.rlw import RLW
from balancer.scales.stch import STCH
from balancer.scales.uncertainty import Uncertainty
from balancer.scales.uncertainty_log1p import UncertaintyLog1p
from balancer.strategy import Scale
from balancer_inputs import leaf
from scale_inputs import names, prepared, step

CONFIGS = Path(__file__).parents[2] / "configs" / "balancer"

# Settings with which state fills, freezes and is replaced within a few steps.
EACH_ALONE: dict[str, Callable[[], Scale]] = {
    "amnl": lambda: AMNL(decay=0.8),
    "amnl_current": lambda: AMNL("current"),
    "first_epoch": lambda: FirstEpoch(epoch_steps=5),
    "imtl_l": IMTLL,
    "initial_loss": lambda: InitialLoss(average_steps=5),
    "lr_modulation": lambda: LRModulation(patience=1),
    "baseline_loss": lambda: BaselineLoss(average_steps=5),
    "realtime_loss": RealtimeLoss,
    "uncertainty": Uncertainty,
    "uncertainty_log1p": UncertaintyLog1p,
}
TOGETHER: dict[str, Callable[[], Scale]] = {
    "dwa": lambda: DWA(window_steps=3),
    "famo": FAMO,
    "gls": GLS,
    "rlw": RLW,
    "stch": STCH,
}
SCALES = EACH_ALONE | TOGETHER

every_scale = pytest.mark.parametrize("make", SCALES.values(), ids=SCALES.keys())
every_scale_alone = pytest.mark.parametrize("make", EACH_ALONE.values(), ids=EACH_ALONE.keys())


def values(steps: int, size: int) -> Tensor:
    """Shape: [steps, size], positive."""
    return torch.randn(steps, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64).exp()


def state(scale: Scale) -> dict[str, Tensor]:
    """Buffers with an entry for each loss."""
    found = scale.named_buffers() if isinstance(scale, nn.Module) else []
    return {name: buffer.clone() for name, buffer in found}


@every_scale
@pytest.mark.parametrize("size", [1, 8])
def test_factors_are_finite_not_negative_and_not_all_zero(make: Callable[[], Scale], size: int) -> None:
    scale = prepared(make(), size)
    for losses in values(12, size):
        factors = scale(step(losses))
        assert factors.shape == (size,)
        assert factors.dtype == torch.float64
        assert factors.isfinite().all()
        assert factors.min() >= 0
        assert factors.max() > 0


@every_scale
@pytest.mark.parametrize("extreme", [0.0, 1e-30, 1e30, -1e-30, -1e30, -3.0])
@pytest.mark.parametrize("lasting", [True, False])
def test_no_loss_makes_factors_explode(make: Callable[[], Scale], extreme: float, lasting: bool) -> None:
    scale = prepared(make(), 3)
    for count in range(12):
        strange = extreme if lasting or count == 4 else 0.7
        factors = scale(step([0.5, strange, 2.0]))
        assert factors.isfinite().all()
        assert factors.min() >= 0
        assert factors.max() <= 1e4 * (1 + 1e-12)


@pytest.mark.parametrize("name", sorted(set(SCALES) - {"stch"}))
def test_a_negative_loss_counts_by_its_magnitude(name: str) -> None:
    positive, negative = prepared(SCALES[name](), 3), prepared(SCALES[name](), 3)
    signs = torch.tensor([1.0, -1.0, 1.0])
    for losses in values(12, 3):
        assert torch.equal(positive(step(losses)), negative(step(losses * signs)))


@pytest.mark.parametrize("name", sorted(set(SCALES) - {"rlw"}))
def test_the_order_of_the_losses_does_not_matter(name: str) -> None:
    order = torch.randperm(8)
    plain, permuted = prepared(SCALES[name](), 8), prepared(SCALES[name](), 8)
    for losses in values(12, 8):
        torch.testing.assert_close(permuted(step(losses[order])), plain(step(losses))[order])


@every_scale
def test_an_absent_loss_keeps_its_state(make: Callable[[], Scale]) -> None:
    scale = prepared(make(), 3)
    for losses in values(4, 3):
        scale(step(losses))
    before = state(scale)
    for losses in values(30, 2) * 100:
        scale(step(losses, [0, 2]))
    for name, buffer in state(scale).items():
        expected = torch.tensor(math.nan, dtype=torch.float64) if name == "last_log" else before[name][1]
        torch.testing.assert_close(buffer[1], expected, rtol=0, atol=0, equal_nan=True)
    back = scale(step([1.0, 2.0, 3.0]))
    assert back.isfinite().all()
    assert back[1] > 0


@every_scale_alone
def test_a_factor_depends_on_the_losses_own_past_only(make: Callable[[], Scale]) -> None:
    alone, among_others = prepared(make(), 1), prepared(make(), 3)
    for count, losses in enumerate(values(24, 3)):
        if count % 4 == 0:
            among_others(step(losses[[0, 2]], [0, 2]))
        else:
            index = [1] if count % 4 == 1 else [1, 2]
            assert torch.equal(among_others(step(losses[index], index))[:1], alone(step(losses[[1]])))


def balancer(make: Callable[[], Scale]) -> Balancer:
    return Balancer(dict.fromkeys(names(3), 1.0), make(), Sum(), Keep(), monitor_every=0)


def run(balancer: Balancer, steps: range) -> list[Tensor]:
    """Weights of the given steps of one run, with absent losses and with validations."""
    found = []
    for count in steps:
        losses = dict(zip(names(3), values(16, 3)[count], strict=True))
        if count % 5 == 2:
            del losses["b"]
        output = leaf(1, 1, 2)
        result = balancer({name: output.sum() + value for name, value in losses.items()}, output)
        found.append(torch.stack(list(result.weights.values())))
        if count % 3 == 2:
            balancer.update_from_validation({"a": losses["a"].item(), "c": losses["c"].item()})
    return found


@every_scale
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_run_resumes_bit_for_bit(make: Callable[[], Scale], stop: int) -> None:
    uninterrupted, stopped, resumed = (balancer(make) for _ in range(3))
    for each in (uninterrupted, stopped):  # only before the first step; afterwards baselines are part of the state
        each.set_constant_baselines({"a": 3.0})
    expected = run(uninterrupted, range(16))
    run(stopped, range(stop))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    got = run(resumed, range(stop, 16))
    assert all(torch.equal(a, b) for a, b in zip(got, expected[stop:], strict=True))


@every_scale
def test_the_balancers_weight_is_user_weight_times_factor(make: Callable[[], Scale]) -> None:
    output = leaf(1, 1, 2)
    losses = {"a": output.sum() + 0.5, "b": 3 * output.sum() + 4.0}
    result = Balancer({"a": 1.0, "b": 1.0}, make(), Sum(), Keep(), monitor_every=0)(losses, output)
    expected = prepared(make())(step([0.5, 4.0]))
    torch.testing.assert_close(torch.stack([result.weights["a"], result.weights["b"]]), expected)
    torch.testing.assert_close(result.gradient, (expected[0] + 3 * expected[1]).float().expand(1, 1, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InitialLoss(average_steps=0), r"average_steps must be in \[1, inf\), got 0"),
        (lambda: InitialLoss(limit=1.0), r"limit must be in \(1, inf\), got 1.0"),
        (lambda: FirstEpoch(epoch_steps=0), r"epoch_steps must be in \[1, inf\), got 0"),
        (lambda: RealtimeLoss(limit=math.inf), r"limit must be in \(1, inf\), got inf"),
        (lambda: AMNL("mean"), "mode must be one of current, ema, got 'mean'"),  # type: ignore[arg-type]
        (lambda: AMNL(decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: DWA(window_steps=0), r"window_steps must be in \[1, inf\), got 0"),
        (lambda: DWA(temperature=0.0), r"temperature must be in \(0, inf\), got 0.0"),
        (lambda: DWA(limit=1.0), r"limit must be in \(1, inf\), got 1.0"),
        (lambda: FAMO(weight_decay=-1.0), r"weight_decay must be in \[0, inf\), got -1.0"),
        (lambda: STCH(mu=0.0), r"mu must be in \(0, inf\), got 0.0"),
        (lambda: LRModulation(rho=1.0), r"rho must be in \(1, inf\), got 1.0"),
        (lambda: LRModulation(k_max=math.inf), r"k_max must be in \(1, inf\), got inf"),
        (lambda: LRModulation(patience=0), r"patience must be in \[1, inf\), got 0"),
    ],
)
def test_settings_out_of_range_are_errors(make: Callable[[], Scale], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", sorted(SCALES))
def test_configs_name_every_setting_with_its_default(name: str) -> None:
    kind = type(SCALES[name]())
    config = OmegaConf.load(CONFIGS / "scale" / f"{name}.yaml")
    changed = {key: config[key] for key in config if key not in ("defaults", "_target_")}
    if "defaults" in config:
        assert (list(config.defaults), changed) == (["amnl", "_self_"], {"mode": "current"})
        return
    defaults = {parameter.name: parameter.default for parameter in inspect.signature(kind).parameters.values()}
    assert (config._target_, changed) == (f"balancer.{kind.__name__}", defaults)
    assert OmegaConf.load(CONFIGS / f"{name}.yaml").defaults[1].scale == name
