"""Properties of every strategy in configs/balancer on all inputs that can occur in training."""

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor
from torch.testing import assert_close

from balancer import Balanced, Balancer, Sum
from balancer.statistics import SharedLayers
from balancer_inputs import leaf, linear, noise

CONFIGS = Path(__file__).parents[2] / "configs"
STRATEGIES = sorted(path.stem for path in (CONFIGS / "balancer").glob("*.yaml"))
# Strategies with random draws: another order of the losses gets other draws.
RANDOM = {"graddrop", "gradvac", "pcgrad", "rlw"}
# Strategies whose direction does not change if a loss is multiplied by a constant.
SCALE_FREE = {
    "amnl", "amnl_current", "conflict_free", "db_mtl", "encodec", "encodec_batch_invariant", "gls",
    "gradient_normalization", "gradient_normalization_rate", "imtl_g", "initial_loss", "nash_mtl", "realtime_loss",
}  # fmt: skip
SHAPE = (2, 1, 8)
NAMES = ["mel", "l1", "adversarial", "feature_matching", "l2", "si_sdr", "stft", "other"]
FOUR = {"mel": 1.0, "l1": 0.1, "adversarial": 3.0, "feature_matching": 3.0}
# Largest norm of a combined gradient, as a multiple of the weighted sum of the norms, each at least 1.
LIMIT = 1e4

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@cache
def config(strategy: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        cfg = compose(None, overrides=["+losses.weights={}", f"+balancer={strategy}"])
    return OmegaConf.to_container(cfg.balancer, resolve=True)


def built(node: Any) -> Any:
    """The object that a configuration describes. `hydra.utils.instantiate` takes half of the time of a test."""
    if isinstance(node, list):
        return [built(item) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {name: built(value) for name, value in node.items() if name != "_target_"}
    return get_class(node["_target_"])(**arguments) if "_target_" in node else arguments


def make(strategy: str, weights: Mapping[str, float]) -> Balancer:
    balancer: Balancer = built(config(strategy) | {"weights": dict(weights), "monitor_every": 0})
    if balancer.uses_constant_baselines:
        balancer.set_constant_baselines({name: 1.5 for name in weights if name in ("mel", "l1")})
    return balancer


_TO_PARAMETERS = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))


def shared_gradient(gradient: Tensor, layers: SharedLayers) -> Tensor:
    """Gradient at parameters of which the output is a linear function."""
    return gradient.flatten() @ _TO_PARAMETERS


def gradients(names: list[str], seed: int = 0, spread: float = 1.0) -> dict[str, Tensor]:
    rows = noise("abcdefgh"[: len(names)], SHAPE, seed, spread)
    return dict(zip(names, rows.values(), strict=True))


def step(balancer: Balancer, rows: Mapping[str, Tensor], values: Mapping[str, float] | float = 1.0) -> Balanced:
    """One call with losses of these gradients and values."""
    output = leaf(*SHAPE)
    losses = {}
    for name, row in rows.items():
        losses |= linear(output, {name: row}, values if isinstance(values, float) else values[name])
    return balancer(losses, output, shared_gradient)


def check(result: Balanced, balancer: Balancer, rows: Mapping[str, Tensor], limit: float = LIMIT) -> None:
    """Checks that the result is finite, not longer than allowed, and the sum with the reported weights."""
    assert result.gradient.dtype == torch.float32
    assert result.gradient.isfinite().all()
    assert result.is_finite
    longest = sum(balancer.weights[name] * max(1.0, row.norm().item()) for name, row in rows.items())
    assert result.gradient.norm() <= limit * longest
    if type(balancer.strategy.direction).__name__ != "GradDrop":  # it has a weight for every element
        terms = torch.stack([result.weights[name] * row.double() for name, row in rows.items()])
        assert_close(result.gradient.double(), terms.sum(0), rtol=1e-3, atol=1e-4 * terms.abs().max().item())


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()


@every_strategy
def test_ordinary_steps(strategy: str) -> None:
    balancer = make(strategy, FOUR)
    for seed in range(15):
        rows = gradients(list(FOUR), seed)
        result = step(balancer, rows, 1 / (1.0 + seed))
        check(result, balancer, rows, limit=30)
        assert result.gradient.abs().max() > 0
        assert result.dropped == ()


@every_strategy
def test_one_loss_alone_keeps_its_direction(strategy: str) -> None:
    balancer = make(strategy, {"mel": 2.0})
    for seed in range(10):
        rows = gradients(["mel"], seed)
        result = step(balancer, rows)
        check(result, balancer, rows)
        assert cosine(result.gradient, rows["mel"]) == pytest.approx(1, abs=1e-5)


@every_strategy
@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_eight_losses_whose_norms_spread_over_six_decades(strategy: str, spread: float) -> None:
    balancer = make(strategy, dict.fromkeys(NAMES, 1.0))
    for seed in range(8):
        rows = gradients(NAMES, seed, spread)
        check(step(balancer, rows), balancer, rows)


@every_strategy
@pytest.mark.parametrize("louder", ["mel", "adversarial"])
def test_a_loss_multiplied_by_1000(strategy: str, louder: str) -> None:
    plain, scaled = make(strategy, FOUR), make(strategy, FOUR)
    values = {"mel": 2.0, "l1": 0.5, "adversarial": 1.0, "feature_matching": 0.9}
    for seed in range(8):
        rows = gradients(list(FOUR), seed)
        loud = rows | {louder: 1000 * rows[louder]}
        expected = step(plain, rows, values)
        result = step(scaled, loud, values | {louder: 1000 * values[louder]})
        check(result, scaled, loud)
        if strategy in SCALE_FREE:
            assert cosine(result.gradient, expected.gradient) == pytest.approx(1, abs=1e-4)


@every_strategy
@pytest.mark.parametrize("absence", ["no value", "no gradient from the start", "zero"])
def test_a_loss_that_returns_is_not_amplified(strategy: str, absence: str) -> None:
    """After 20 zeros AudioCraft's balancer amplifies it by a factor of 20."""
    weights = {"mel": 1.0, "adversarial": 1.0}
    absent, usual = make(strategy, weights), make(strategy, weights)
    rows = gradients(list(weights), 3)
    before = [step(usual, rows).weights["adversarial"].abs().item() for _ in range(8)]
    if absence != "no gradient from the start":
        for _ in range(8):
            step(absent, rows)
    output = leaf(*SHAPE)
    losses = linear(output, {"mel": rows["mel"]})
    if absence != "no value":
        losses |= linear(output, {"adversarial": 0 * rows["adversarial"]}, 0.0 if absence == "zero" else 1.0)
    for _ in range(20):
        result = absent(losses, output, shared_gradient)
    check(result, absent, {"mel": rows["mel"]})
    assert cosine(result.gradient, rows["mel"]) == pytest.approx(1, abs=1e-5)
    for _ in range(8):
        result = step(absent, rows)
        check(result, absent, rows)
        assert result.weights["adversarial"].abs() <= 10 * max(before)


@every_strategy
@pytest.mark.parametrize("last", [-3.0, 1e-30, -1e-9])
def test_a_loss_that_falls_below_zero_is_still_minimised(strategy: str, last: float) -> None:
    balancer = make(strategy, FOUR)
    for seed, value in enumerate([1.0, 0.1, 1e-3, last, last, last, -0.1, last]):
        rows = gradients(list(FOUR), seed)
        result = step(balancer, rows, {"mel": 1.0, "l1": 0.2, "adversarial": value, "feature_matching": 0.5})
        check(result, balancer, rows)
        if isinstance(balancer.strategy.direction, Sum):
            assert all(weight >= 0 for weight in result.weights.values())


@every_strategy
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_does_not_change_the_state(strategy: str, value: float) -> None:
    disturbed, undisturbed = make(strategy, FOUR), make(strategy, FOUR)
    for seed in range(6):
        rows = gradients(list(FOUR), seed)
        present = {name: row for name, row in rows.items() if seed != 3 or name != "l1"}
        result = step(disturbed, rows, dict.fromkeys(FOUR, 1.0) | ({"l1": value} if seed == 3 else {}))
        check(result, disturbed, present)
        assert result.dropped == (("l1",) if seed == 3 else ())
        assert torch.equal(result.gradient, step(undisturbed, present).gradient)


@every_strategy
@pytest.mark.parametrize("entry", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_does_not_change_the_state(strategy: str, entry: float) -> None:
    """Strategies of loss values do not check gradients. Their sum is not finite, and the caller skips the step."""
    disturbed, undisturbed = make(strategy, FOUR), make(strategy, FOUR)
    bad = torch.zeros(SHAPE)
    bad[1, 0, 3] = entry
    for seed in range(6):
        rows = gradients(list(FOUR), seed)
        if seed == 3:
            output = leaf(*SHAPE)
            losses = linear(output, rows)
            losses["l1"] = _Gradient.apply(output, bad) + 1.0
            uses_gradients = disturbed.strategy.needs_gradients
            result = disturbed(losses, output, shared_gradient)
            expected = step(
                undisturbed, {name: row for name, row in rows.items() if name != "l1" or not uses_gradients}
            )
            if not uses_gradients:
                assert not result.gradient.isfinite().all()
                continue
            assert result.dropped == ("l1",)
        else:
            result, expected = step(disturbed, rows), step(undisturbed, rows)
        check(result, disturbed, rows if result.dropped == () else {n: r for n, r in rows.items() if n != "l1"})
        assert torch.equal(result.gradient, expected.gradient)


class _Gradient(torch.autograd.Function):
    """Value 0 and a given gradient."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad * ctx.saved_tensors[0], None


@every_strategy
@pytest.mark.parametrize("factor", [1.0, 1.001, 1e-4])
def test_two_losses_that_oppose_each_other(strategy: str, factor: float) -> None:
    balancer = make(strategy, {"mel": 1.0, "adversarial": 1.0})
    for seed in range(8):
        row = gradients(["mel"], seed)["mel"]
        rows = {"mel": row, "adversarial": -factor * row}
        result = step(balancer, rows)
        assert result.gradient.isfinite().all()
        assert result.is_finite
        assert result.gradient.norm() <= LIMIT * row.norm()


@every_strategy
def test_duplicate_and_dependent_gradients(strategy: str) -> None:
    balancer = make(strategy, FOUR)
    for seed in range(8):
        a, b = gradients(["mel", "l1"], seed).values()
        rows = {"mel": a, "l1": 2 * a, "adversarial": b, "feature_matching": a + b}
        result = step(balancer, rows)
        assert result.gradient.isfinite().all()
        assert result.is_finite
        assert result.gradient.norm() <= LIMIT


@every_strategy
def test_losses_computed_in_bfloat16(strategy: str) -> None:
    inside, outside = make(strategy, FOUR), make(strategy, FOUR)
    results = []
    for balancer, enabled in ((inside, True), (outside, False)):
        output = leaf(*SHAPE)
        with torch.autocast("cpu", torch.bfloat16):
            losses = {name: (output.bfloat16() * row.bfloat16()).sum() + 1 for name, row in gradients([*FOUR]).items()}
        assert {loss.dtype for loss in losses.values()} == {torch.bfloat16}
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                results.append(balancer(losses, output, shared_gradient).gradient)
    for a, b in zip(results[:3], results[3:], strict=True):
        assert a.dtype == torch.float32
        assert a.isfinite().all()
        assert torch.equal(a, b)


@every_strategy
def test_the_state_resumes_bit_for_bit(strategy: str) -> None:
    uninterrupted, stopped, resumed = (make(strategy, FOUR) for _ in range(3))

    def run(balancer: Balancer, seeds: range) -> list[Tensor]:
        found = []
        for seed in seeds:
            rows = gradients(list(FOUR), seed)
            if seed % 5 == 2:
                del rows["adversarial"]
            found.append(step(balancer, rows, 1 / (1.0 + seed % 7)).gradient)
            balancer.update_from_validation({"mel": 1.0 + seed % 3, "l1": 1.0})
        return found

    expected = run(uninterrupted, range(24))
    run(stopped, range(11))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(run(resumed, range(11, 24)), expected[11:], strict=True))


@every_strategy
def test_the_order_of_the_losses_does_not_matter(strategy: str) -> None:
    forth, back = make(strategy, FOUR), make(strategy, dict(reversed(FOUR.items())))
    if strategy not in RANDOM:
        for seed in range(8):
            rows = gradients(list(FOUR), seed)
            if seed % 3 == 1:
                del rows["adversarial"]
            expected = step(forth, rows, 1 / (1.0 + seed)).gradient
            result = step(back, dict(reversed(rows.items())), 1 / (1.0 + seed)).gradient
            assert_close(result, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        return
    rows = gradients(list(FOUR), 0)
    means = [torch.stack([step(each, rows).gradient for _ in range(300)]).mean(0) for each in (forth, back)]
    assert (means[0] - means[1]).norm() < 0.15 * means[0].norm()


@every_strategy
def test_draws_are_reproducible_and_leave_the_global_generator_alone(strategy: str) -> None:
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        balancer = make(strategy, FOUR)
        runs.append([step(balancer, gradients(list(FOUR), seed)).gradient for seed in range(5)])
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@every_strategy
def test_losses_of_weight_zero_have_no_effect(strategy: str) -> None:
    weights = FOUR | {"other": 0.0}
    with_it, without = make(strategy, weights), make(strategy, weights)
    for seed in range(6):
        rows = gradients(list(weights), seed)
        result = step(with_it, rows | {"other": 1e6 * rows["other"]}, dict.fromkeys(FOUR, 1.0) | {"other": 1e6})
        del rows["other"]
        assert torch.equal(result.gradient, step(without, rows).gradient)
        assert result.weights["other"] == 0
        assert list(result.weights) == list(weights)
