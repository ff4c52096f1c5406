"""Scales that use loss values: worked numbers, TorchJD's scalarizers and float64 arithmetic."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchjd import scalarization

from balancer import Balancer, EmaNorm, Keep, Sum, Warmup
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
from balancer.scales.reciprocal import reciprocal
from balancer.scales.rlw import RLW
from balancer.scales.stch import STCH
from balancer.scales.uncertainty import Uncertainty
from balancer.scales.uncertainty_log1p import UncertaintyLog1p
from balancer.strategy import Scale
from scale_inputs import prepared, step

LOSSES = [4.0, 0.5]


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sequence(steps: int, size: int = 3) -> Tensor:
    """Positive losses of different sizes that fall at different rates. Shape: [steps, size]."""
    noise = torch.randn(steps, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    trend = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None] * torch.linspace(-2, 0, size)
    return torch.exp(trend + 0.3 * noise + torch.linspace(-1, 2, size))


def gradient(function: Callable[[Tensor], Tensor], losses: Tensor) -> Tensor:
    values = losses.clone().requires_grad_()
    return torch.autograd.grad(function(values), values)[0]


def test_reciprocal_is_positive_and_bounded() -> None:
    assert_close(reciprocal(float64(4, -0.5, 0, 1e-30, 1e30), 100.0), float64(0.25, 2, 100, 100, 1e-30))


# Each loss divided by a magnitude


def test_initial_loss_divides_by_the_first_value() -> None:
    scale = prepared(InitialLoss(average_steps=1))
    for values in (LOSSES, [1.0, 1.0]):
        assert_close(scale(step(values)), float64(0.25, 2))


def test_initial_loss_averages_the_first_steps_and_is_then_constant() -> None:
    scale = prepared(InitialLoss(average_steps=2))
    assert_close(scale(step([4, 0.5])), float64(1 / 4, 2))
    for values in ([2, 1.5], [100, 100], [1, 1]):
        assert_close(scale(step(values)), float64(1 / 3, 1))


def test_a_late_loss_has_an_initial_value_of_its_own() -> None:
    scale = prepared(InitialLoss(average_steps=2))
    for _ in range(5):
        scale(step([4.0], [0]))
    assert_close(scale(step([1, 10])), float64(1 / 4, 1 / 10))
    assert_close(scale(step([1, 30])), float64(1 / 4, 1 / 20))


def test_first_epoch_is_a_plain_sum_and_then_divides_by_its_means() -> None:
    scale = prepared(FirstEpoch(epoch_steps=2))
    for values in ([4, 1], [2, 0.5]):
        assert_close(scale(step(values)), float64(1, 1))
    for values in ([4, 1], [1, 1]):
        assert_close(scale(step(values)), float64(1 / 3, 4 / 3))


def test_realtime_loss_is_the_gradient_of_the_logarithms() -> None:
    scale = prepared(RealtimeLoss())
    assert_close(scale(step(LOSSES)), float64(0.25, 2))
    for losses in sequence(3):
        assert_close(scale(step(losses)), gradient(lambda x: x.log().sum(), losses))


def test_amnl_has_bias_correction() -> None:
    scale = prepared(AMNL(decay=0.99), size=1)
    assert_close(scale(step([4])), float64(1 / 4))
    assert_close(scale(step([2])), float64(0.0199 / 0.0596))


def test_amnl_in_current_mode_is_the_realtime_loss() -> None:
    current, realtime = prepared(AMNL("current"), 3), prepared(RealtimeLoss(), 3)
    for losses in sequence(5):
        assert torch.equal(current(step(losses)), realtime(step(losses)))


def test_prior_loss_falls_back_on_the_initial_loss() -> None:
    scale, initial = prepared(BaselineLoss(average_steps=2), 3), prepared(InitialLoss(average_steps=2), 3)
    scale.set_constant_baselines({"b": 5.0})
    for losses in sequence(4):
        expected = initial(step(losses))
        expected[1] = 1 / 5
        assert_close(scale(step(losses)), expected)


@pytest.mark.parametrize("prior", [{"z": 1.0}, {"a": float("nan")}, {"a": -1.0}, {"a": float("inf")}])
def test_invalid_baselines_are_errors(prior: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"constant baselines must (be finite and >= 0|name losses among a, b)"):
        prepared(BaselineLoss()).set_constant_baselines(prior)


@pytest.mark.parametrize("warm", [False, True])
def test_the_balancer_passes_baselines_to_the_scale(warm: bool) -> None:
    scales = (BaselineLoss(), EmaNorm()) if warm else (EmaNorm(), BaselineLoss())
    balancer = Balancer({"a": 1, "b": 1}, scales[1], Sum(), Keep(), warmup=Warmup(5, scales[0], Sum(), Keep()))
    assert balancer.uses_constant_baselines
    balancer.set_constant_baselines({"b": 0.5})
    assert_close(scales[not warm].baselines, float64(float("nan"), 0.5), equal_nan=True)
    assert not Balancer({"a": 1}, InitialLoss(), Sum(), Keep()).uses_constant_baselines


# Learnt scales


class Log1p(nn.Module):
    """Liebel and Körner's objective with the parameter ln p."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.log_p = nn.Parameter(torch.zeros(size))

    def forward(self, losses: Tensor) -> Tensor:
        square = (2 * self.log_p).exp()
        return (losses / (2 * square) + (1 + square).log()).sum()


LEARNT = [(Uncertainty, scalarization.UW), (IMTLL, scalarization.IMTLL), (UncertaintyLog1p, Log1p)]


@pytest.mark.parametrize(("ours", "oracle"), LEARNT)
def test_learnt_scales_equal_autograd_and_adam(ours: type, oracle: type) -> None:
    scale, objective = prepared(ours(lr=0.05), 3), oracle(3).double()
    adam = torch.optim.Adam(objective.parameters(), lr=0.05)
    for losses in sequence(40):
        assert_close(scale(step(losses)), gradient(objective, losses), rtol=1e-10, atol=0)
        adam.zero_grad()
        objective(losses).backward()
        adam.step()


@pytest.mark.parametrize(
    ("scale", "start", "end"),
    [
        (Uncertainty(), (0.5, 0.5), (0.125, 1.0)),
        (UncertaintyLog1p(), (0.5, 0.5), (0.18301, 0.78078)),
        (IMTLL(), (1.0, 1.0), (0.25, 2.0)),
    ],
)
def test_learnt_scales_start_and_converge_as_published(
    scale: Scale, start: tuple[float, float], end: tuple[float, float]
) -> None:
    prepared(scale)
    assert_close(scale(step(LOSSES)), float64(*start))
    for _ in range(500):
        factors = scale(step(LOSSES))
    assert_close(factors, float64(*end), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("scale", "bound"), [(Uncertainty(1.0, 100), 2), (UncertaintyLog1p(1.0, 100), 2), (IMTLL(1.0, 100), 1)]
)
def test_learnt_scales_stop_at_their_limit(scale: Scale, bound: float) -> None:
    prepared(scale)
    for _ in range(50):
        factors = bound * scale(step([1e-9, 1e9]))
        assert factors[1] >= 0.01 * (1 - 1e-12)
    assert factors[0].item() == pytest.approx(100)


@pytest.mark.parametrize(("ours", "_oracle"), LEARNT)
def test_learnt_scales_recover_from_an_outlier(ours: type, _oracle: type) -> None:
    factors_at_end = []
    for first in (4.0, 1e30):
        scale = prepared(ours(lr=0.1, limit=100), 1)
        for value in [first] + [4.0] * 400:
            factors = scale(step([value]))
        factors_at_end.append(factors.item())
    assert factors_at_end[1] == pytest.approx(factors_at_end[0], rel=0.01)


# Scales that compare losses


def test_dwa_worked_number() -> None:
    scale = prepared(DWA(window_steps=2))
    for values in ([1.5, 1], [0.5, 1], [0.25, 0.8], [0.75, 1]):
        assert_close(scale(step(values)), float64(1, 1))
    assert_close(scale(step([7, 7])), float64(0.900332, 1.099668), rtol=1e-6, atol=0)


def test_dwa_equals_torchjd() -> None:
    scale, oracle = prepared(DWA(window_steps=3, temperature=1.5), 3), scalarization.DWA(1.5)
    for count, losses in enumerate(sequence(15), 1):
        assert_close(scale(step(losses)), gradient(oracle, losses))
        if count % 3 == 0:
            oracle.step()


def test_dwa_bounds_the_ratio_of_a_sudden_rise() -> None:
    scale = prepared(DWA(window_steps=1, limit=4.0))
    for values in ([1e-30, 1], [1e30, 1]):
        scale(step(values))
    assert_close(scale(step([1, 1])), 2 * torch.softmax(float64(4 / 2, 1 / 2), 0))


def test_dwa_treats_two_windows_of_zeros_as_no_change() -> None:
    scale = prepared(DWA(window_steps=1))
    for _ in range(3):
        factors = scale(step([0, 1]))
    assert factors.tolist() == [1, 1]


def test_rlw_has_the_moments_of_the_softmax_of_normal_draws() -> None:
    scale = prepared(RLW(), 3)
    factors = torch.stack([scale(step([1, 1, 1])) for _ in range(4000)])
    assert_close(factors.sum(1), torch.ones(4000, dtype=torch.float64))
    assert_close(factors.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.012, rtol=0)
    assert_close(factors.std(0), torch.full((3,), 0.222, dtype=torch.float64), atol=0.008, rtol=0)


def test_rlw_draws_do_not_depend_on_which_losses_are_active() -> None:
    complete, partial = prepared(RLW(), 3), prepared(RLW(), 3)
    for _ in range(5):
        full, part = complete(step([1, 2, 3])), partial(step([1, 3], [0, 2]))
        assert_close(part, full[[0, 2]] / full[[0, 2]].sum())


def test_rlw_draws_depend_on_its_seed_and_not_on_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, same, other = (prepared(RLW(seed))(step([1, 1])) for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_gls_is_the_gradient_of_the_geometric_mean() -> None:
    scale = prepared(GLS())
    assert_close(scale(step([4, 0.25])), float64(0.125, 2))
    for losses in sequence(3):
        assert_close(scale(step(losses)), gradient(scalarization.GeometricMean(), losses))


def test_famo_worked_number() -> None:
    scale = prepared(FAMO())
    assert_close(scale(step(LOSSES)), float64(1 / 9, 8 / 9))
    scale(step([3.6, 0.49]))
    assert_close(scale.xi, float64(-0.025, 0.025), rtol=1e-5, atol=0)


def test_famo_equals_torchjd_with_the_losses_of_the_next_batch() -> None:
    losses = sequence(30)
    scale, oracle = prepared(FAMO(weight_decay=0.1), 3), scalarization.FAMO(3, weight_decay=0.1).double()
    for t in range(len(losses) - 1):
        assert_close(scale(step(losses[t])), gradient(oracle, losses[t]), rtol=1e-5, atol=0)
        oracle.update(losses[t + 1])


def test_famo_bounds_the_ratio_of_its_shares() -> None:
    scale = prepared(FAMO(lr=1.0, limit=100.0))
    for count in range(6):
        losses = float64(0.5**count, 1)
        shares = scale(step(losses)) * losses
    assert (shares[1] / shares[0]).item() == pytest.approx(100, rel=1e-6)


def test_famo_updates_only_losses_of_two_consecutive_steps() -> None:
    scale = prepared(FAMO(), 3)
    for values, index in (([4, 1, 1], [0, 1, 2]), ([3, 1], [0, 1]), ([9, 1e-3], [1, 2])):
        scale(step(values, index))
    assert scale.adam.count.tolist() == [1, 2, 0]


def test_stch_worked_number() -> None:
    assert_close(prepared(STCH())(step(LOSSES)), float64(0.425976, 0.074024), rtol=1e-5, atol=0)


def test_stch_equals_torchjd() -> None:
    weights, ideal = float64(1, 2, 5), float64(0.1, 0, 0.4)
    oracle = scalarization.STCH(0.3, weights / weights.sum(), ideal)
    scale = prepared(STCH(0.3, {"a": 0.1, "c": 0.4}), 3)
    for losses in sequence(3):
        statistics = step(losses)
        statistics.user_weights = weights
        assert_close(weights * scale(statistics), gradient(oracle, losses))


def test_stch_ideal_value_without_a_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="ideal must name losses among a, b, got z"):
        prepared(STCH(ideal={"z": 1.0}))


# Validation


def validated_factors(scale: LRModulation, *losses: float) -> list[float]:
    found = []
    for loss in losses:
        scale.update_from_validation({"a": loss})
        found.append(scale(step([1, 1]))[0].item())
    return found


def test_lr_modulation_rises_while_a_loss_stalls_and_falls_afterwards() -> None:
    scale = prepared(LRModulation(rho=1.25, k_max=1.6, patience=3))
    assert validated_factors(scale, 5, 5, 6, 5, 5, 5, 4, 4, 3, 2) == pytest.approx(
        [1, 1, 1, 1.25, 1.5625, 1.6, 1.28, 1.024, 1, 1]
    )
    assert scale(step([1, 1]))[1] == 1


def test_lr_modulation_ignores_values_that_are_missing_or_not_finite() -> None:
    scale = prepared(LRModulation(patience=1))
    assert validated_factors(scale, 5, 5, float("nan"), float("inf")) == [1, 1.25, 1.25, 1.25]
    scale.update_from_validation({})
    assert scale.stalled.tolist() == [1, 0]


def test_lr_modulation_of_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="validation losses must name losses among a, b, got z"):
        prepared(LRModulation()).update_from_validation({"z": 1.0})


def test_the_balancer_passes_validation_losses_to_the_scale() -> None:
    balancer = Balancer({"a": 1, "b": 1}, LRModulation(patience=1), Sum(), Keep())
    for _ in range(2):
        balancer.update_from_validation({"b": 1.0})
    assert_close(balancer.state_dict()["strategy.scale.k"], float64(1, 1.25))
