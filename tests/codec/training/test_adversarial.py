"""Adversarial training: separate gradients, orders of updates, and the bfloat16 cast of stale weights."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from codec.training import AdversarialTraining
from losses import (
    AdversarialLoss,
    CombinedDiscriminator,
    MultiPeriodDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from tiny_run import SAMPLES, copied, differences, tiny_adversarial, tones

BOTH = pytest.mark.parametrize("update", ["simultaneous", "alternating"])
SGD = partial(torch.optim.SGD, lr=0.1)
Update = Literal["simultaneous", "alternating"]


def _pair() -> tuple[Tensor, Tensor]:
    estimate, reference = tones(2, SAMPLES, 1), tones(2, SAMPLES, 2)
    return estimate.requires_grad_(), reference


def _hinge(logits: list[Tensor], sign: float) -> Tensor:
    return sum(((1 - sign * logit).clamp_min(0).mean() for logit in logits), torch.zeros(())) / len(logits)


def _own_loss(discriminator: nn.Module, estimate: Tensor, reference: Tensor) -> Tensor:
    """The paper's hinge loss, on an estimate that nothing flows back to."""
    return _hinge(discriminator(reference).logits, 1) + _hinge(discriminator(estimate.detach()).logits, -1)


def _relative_distance(estimate: list[list[Tensor]], reference: list[list[Tensor]]) -> Tensor:
    """Equation 2 of the paper."""
    pairs = [pair for layers in zip(estimate, reference, strict=True) for pair in zip(*layers, strict=True)]
    return torch.stack([(e - r).abs().mean() / r.abs().mean() for e, r in pairs]).mean()


def _moved(discriminator: nn.Module, loss: Callable[[nn.Module], Tensor]) -> nn.Module:
    """A copy after one step of plain gradient descent."""
    moved = deepcopy(discriminator)
    optimizer = SGD(moved.parameters())
    loss(moved).backward()
    optimizer.step()
    return moved


@BOTH
def test_both_networks_equal_a_plain_loop(update: Update) -> None:
    adversarial = tiny_adversarial(optimizer=SGD, update=update)
    estimate, reference = _pair()
    before = deepcopy(adversarial.discriminator)
    after = _moved(before, lambda d: _own_loss(d, estimate, reference))

    losses = adversarial.generator_losses(estimate, reference, update_discriminator=True)
    gradients = torch.autograd.grad(losses["adversarial"], estimate, retain_graph=True)
    gradients += torch.autograd.grad(losses["feature_matching"], estimate, retain_graph=True)
    adversarial.step()

    # Simultaneous updates use the discriminator's old weights, alternating updates its new ones.
    discriminator = before if update == "simultaneous" else after
    fake, real = discriminator(estimate), discriminator(reference)
    wanted = {
        "adversarial": _hinge(fake.logits, 1),
        "feature_matching": _relative_distance(fake.features, real.features),
    }
    assert list(losses) == list(wanted)
    for name, gradient in zip(wanted, gradients, strict=True):
        torch.testing.assert_close(losses[name], wanted[name])
        torch.testing.assert_close(gradient, torch.autograd.grad(wanted[name], estimate, retain_graph=True)[0])
    for own, plain in zip(adversarial.discriminator.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-6)
    assert differences(copied(before.state_dict()), copied(after.state_dict()))  # it did move


@BOTH
def test_the_codecs_gradient_leaves_nothing_in_the_discriminator(update: Update) -> None:
    adversarial = tiny_adversarial(update=update)
    estimate, reference = _pair()
    before = copied(adversarial.discriminator.state_dict())
    losses = adversarial.generator_losses(estimate, reference, update_discriminator=False)
    torch.autograd.grad(losses["adversarial"] + losses["feature_matching"], estimate)
    assert all(parameter.grad is None for parameter in adversarial.parameters())
    assert not adversarial.step()
    assert differences(before, adversarial.discriminator.state_dict()) == []
    assert adversarial.metrics == {}


@BOTH
def test_the_discriminators_gradient_never_reaches_the_estimate(update: Update) -> None:
    adversarial = tiny_adversarial(update=update)
    estimate, reference = _pair()
    adversarial.generator_losses(estimate, reference, update_discriminator=True)
    adversarial.step()
    assert estimate.grad is None
    assert all(parameter.grad is None for parameter in adversarial.parameters())


def test_the_alternating_order_freezes_the_discriminator() -> None:
    """No work goes into gradients that nobody wants."""
    adversarial = tiny_adversarial(update="alternating")
    losses = adversarial.generator_losses(*_pair(), update_discriminator=True)
    for loss in losses.values():
        gradients = torch.autograd.grad(loss, list(adversarial.parameters()), retain_graph=True, allow_unused=True)
        assert gradients == (None,) * len(gradients)


@BOTH
def test_it_learns_only_when_told_and_only_once(update: Update) -> None:
    adversarial = tiny_adversarial(update=update)
    estimate, reference = _pair()
    adversarial.generator_losses(estimate, reference, update_discriminator=True)
    assert adversarial.step() is (update == "simultaneous")  # in the other order it has moved already
    after = copied(adversarial.state_dict())
    assert not adversarial.step()
    adversarial.generator_losses(estimate, reference, update_discriminator=True)
    adversarial.generator_losses(
        estimate, reference, update_discriminator=False
    )  # clears the gradients of the first call
    if update == "simultaneous":
        assert not adversarial.step()
        assert differences(after, adversarial.state_dict()) == []
    assert all(parameter.requires_grad for parameter in adversarial.parameters())


@BOTH
def test_a_gradient_that_is_not_finite_is_not_taken(update: Update) -> None:
    adversarial = tiny_adversarial(update=update)
    estimate, reference = _pair()
    adversarial.generator_losses(estimate, reference, update_discriminator=True)
    adversarial.step()
    before = copied((adversarial.state_dict(), adversarial.optimizer.state_dict()))
    reference[0, 0, 5] = float("nan")
    adversarial.generator_losses(estimate, reference, update_discriminator=True)
    assert not adversarial.step()
    assert differences(before, copied((adversarial.state_dict(), adversarial.optimizer.state_dict()))) == []
    assert all(parameter.grad is None for parameter in adversarial.parameters())


@BOTH
def test_metrics_are_what_the_discriminator_saw_before_it_moved(update: Update) -> None:
    adversarial = tiny_adversarial(update=update)
    estimate, reference = _pair()
    before = deepcopy(adversarial.discriminator)
    adversarial.generator_losses(estimate, reference, update_discriminator=True)
    real, fake = (before(audio).logits for audio in (reference, estimate))
    wanted = {
        "discriminator/loss": _own_loss(before, estimate, reference),
        "discriminator/real": sum(logit.mean() for logit in real) / len(real),
        "discriminator/fake": sum(logit.mean() for logit in fake) / len(fake),
    }
    assert list(adversarial.metrics) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(adversarial.metrics[name], value.detach())  # type: ignore[union-attr]


@BOTH
def test_the_parts_of_a_combined_discriminator_have_metrics_of_their_own(update: Update) -> None:
    torch.manual_seed(0)
    parts = [MultiScaleSTFTDiscriminator(2, [64, 32]), MultiPeriodDiscriminator([2], [4])]
    adversarial = AdversarialTraining(CombinedDiscriminator(parts), AdversarialLoss(), SGD, update=update)
    before = deepcopy(parts)
    estimate, reference = _pair()
    adversarial.generator_losses(estimate, reference, update_discriminator=True)
    found = adversarial.metrics
    for side, audio in (("real", reference), ("fake", estimate)):
        for name, part in zip(("multi_scale_stft", "multi_period"), before, strict=True):
            logits = part(audio).logits
            mean = sum(logit.mean() for logit in logits) / len(logits)
            torch.testing.assert_close(found[f"discriminator/{side}/{name}"], mean.detach())
        stft, period = (found[f"discriminator/{side}/{name}"] for name in ("multi_scale_stft", "multi_period"))
        torch.testing.assert_close(found[f"discriminator/{side}"], (2 * stft + period) / 3)


def test_under_autocast_the_alternating_order_uses_the_new_weights() -> None:
    """Autocast caches casts of weights. Those from before the update must not be used."""
    adversarial = tiny_adversarial(optimizer=partial(torch.optim.SGD, lr=10.0), update="alternating")
    estimate, reference = _pair()
    seen: list[Tensor] = []
    first = adversarial.discriminator.sub_discriminators[0].convs[0]  # type: ignore[union-attr, index]
    first.register_forward_hook(lambda layer, args, output: seen.append(output.detach().clone()))
    with torch.autocast("cpu", torch.bfloat16):
        adversarial.generator_losses(estimate, reference, update_discriminator=True)
    fake, real = seen[-2:]
    seen.clear()
    for audio in (reference, estimate):
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            adversarial.discriminator(audio)
    assert torch.equal(real, seen[0])
    assert torch.equal(fake, seen[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"update": "together"},
        {"update_probability": 0.0},
        {"update_probability": 1.1},
        {"start_fraction": 1.0},
        {"start_fraction": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        tiny_adversarial(**settings)


def test_it_is_a_module_whose_state_is_the_discriminators() -> None:
    adversarial: AdversarialTraining = tiny_adversarial()
    assert {name.split(".")[0] for name in adversarial.state_dict()} == {"discriminator"}
