"""Adversarial and feature-matching losses: worked numbers, gradients and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from losses import AdversarialLoss, DiscriminatorOutput, discriminator_loss, feature_matching_loss, generator_loss

FAKE = [torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0.0])]
REAL = [torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0.5])]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # first: (3 + 0.5 + 0) / 3, second: 1
        ("hinge", (3.5 / 3 + 1) / 2),
        # first: -(-2 + 0.5 + 3) / 3, second: 0
        ("hinge_linear", -0.5 / 2),
        # first: (9 + 0.25 + 4) / 3, second: 1
        ("least_squares", (13.25 / 3 + 1) / 2),
    ],
)
def test_generator_loss_of_worked_numbers(kind: str, expected: float) -> None:
    assert generator_loss(FAKE, kind).item() == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # fake: (0 + 1.5 + 4) / 3 and 1; real: (0 + 1 + 2) / 3 and 0.5
        ("hinge", (5.5 / 3 + 1) / 2 + (1 + 0.5) / 2),
        ("hinge_linear", (5.5 / 3 + 1) / 2 + (1 + 0.5) / 2),
        # fake: (4 + 0.25 + 9) / 3 and 0; real: (1 + 1 + 4) / 3 and 0.25
        ("least_squares", (13.25 / 3 + 0) / 2 + (2 + 0.25) / 2),
    ],
)
def test_discriminator_loss_of_worked_numbers(kind: str, expected: float) -> None:
    assert discriminator_loss(FAKE, REAL, kind).item() == pytest.approx(expected)  # type: ignore[arg-type]


def test_logits_above_one_have_a_gradient_with_the_linear_hinge_and_none_with_the_hinge() -> None:
    def gradient(kind: str) -> Tensor:
        logits = torch.tensor([5.0, -5.0], requires_grad=True)
        return torch.autograd.grad(generator_loss([logits], kind), logits)[0]  # type: ignore[arg-type]

    assert gradient("hinge").tolist() == [0.0, -0.5]
    assert gradient("hinge_linear").tolist() == [-0.5, -0.5]
    assert gradient("least_squares").tolist() == [4.0, -6.0]


def test_feature_matching_of_worked_numbers() -> None:
    reference = [[torch.tensor([1.0, -3.0]), torch.tensor([[4.0]])], [torch.tensor([2.0]), torch.tensor([1.0])]]
    estimate = [[torch.tensor([2.0, -2.0]), torch.tensor([[2.0]])], [torch.tensor([2.0]), torch.tensor([4.0])]]
    # distances: 1, 2 and 0, 3; mean absolute references: 2, 4 and 2, 1
    for relative, expected in ((False, (1.5 + 1.5) / 2), (True, (0.5 + 1.5) / 2)):
        assert feature_matching_loss(estimate, reference, relative).item() == pytest.approx(expected)
        form = AdversarialLoss(feature_matching="relative" if relative else "plain")
        outputs = DiscriminatorOutput(FAKE, estimate), DiscriminatorOutput(REAL, reference)
        losses = form.generator_losses(*outputs)
        assert losses["adversarial"] == generator_loss(FAKE)
        assert losses["feature_matching"].item() == pytest.approx(expected)
        assert form.discriminator_loss(*outputs) == discriminator_loss(FAKE, REAL)


def test_a_sum_adds_layers_and_sub_discriminators_as_dac_does() -> None:
    """The loops of DAC's `GANLoss.generator_loss`, on the same numbers."""
    reference = [[torch.tensor([1.0, -3.0]), torch.tensor([[4.0]])], [torch.tensor([2.0])]]
    estimate = [[torch.tensor([2.0, -2.0]), torch.tensor([[2.0]])], [torch.tensor([5.0])]]
    adversarial = sum(float(((1 - logits) ** 2).mean()) for logits in FAKE)
    features = 0.0
    for found, target in zip(estimate, reference, strict=True):
        for layer, real in zip(found, target, strict=True):
            features += float((layer - real).abs().mean())
    assert features == 1 + 2 + 3
    form = AdversarialLoss("least_squares", "plain", "sum")
    outputs = DiscriminatorOutput(FAKE, estimate), DiscriminatorOutput(REAL, reference)
    losses = form.generator_losses(*outputs)
    assert losses["adversarial"].item() == pytest.approx(adversarial)
    assert losses["feature_matching"].item() == pytest.approx(features)
    assert form.discriminator_loss(*outputs) == discriminator_loss(FAKE, REAL, "least_squares")  # a mean
    relative = feature_matching_loss(estimate, reference, relative=True, reduction="sum")
    assert relative.item() == pytest.approx(1 / 2 + 2 / 4 + 3 / 2)


def test_relative_feature_matching_ignores_the_scale_of_a_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, reference = torch.randn(2, 50, generator=generator)
    for relative, factor in ((True, 1.0), (False, 1000.0)):
        scaled = feature_matching_loss([[1000 * estimate]], [[1000 * reference]], relative)
        torch.testing.assert_close(scaled, factor * feature_matching_loss([[estimate]], [[reference]], relative))


def test_no_gradient_flows_to_the_features_of_the_reference() -> None:
    estimate, reference = torch.ones(3, requires_grad=True), torch.full((3,), 2.0, requires_grad=True)
    feature_matching_loss([[estimate]], [[reference]], relative=True).backward()
    assert estimate.grad is not None
    torch.testing.assert_close(estimate.grad, torch.full((3,), -1 / 6))
    assert reference.grad is None


def test_features_that_are_all_zero_give_finite_losses_and_gradients() -> None:
    zeros = torch.zeros(4)
    estimate = zeros.clone().requires_grad_()
    value = feature_matching_loss([[estimate]], [[zeros]], relative=True)
    (gradient,) = torch.autograd.grad(value, estimate)
    assert value.item() == 0.0
    assert gradient.isfinite().all()


def test_bfloat16_logits_and_features_are_summed_in_float32() -> None:
    ones = torch.ones(65_536, dtype=torch.bfloat16)
    adversarial = generator_loss([ones], "hinge_linear")
    features = feature_matching_loss([[0 * ones]], [[ones]], relative=False)
    for value in (adversarial, features, discriminator_loss([ones], [ones])):
        assert value.dtype == torch.float32
    assert (adversarial.item(), features.item()) == (-1.0, 1.0)


@pytest.mark.parametrize("kind", ["hinge", "hinge_linear", "least_squares"])
@pytest.mark.parametrize("matching", ["relative", "plain"])
def test_losses_do_not_depend_on_autocast(kind: Any, matching: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [
        DiscriminatorOutput(
            [torch.randn(2, 1, 5, generator=generator) for _ in range(2)],
            [[torch.randn(2, 3, 5, generator=generator) for _ in range(2)] for _ in range(2)],
        )
        for _ in range(2)
    ]
    loss = AdversarialLoss(kind, matching)

    def values() -> list[float]:
        found = [*loss.generator_losses(*outputs).values(), loss.discriminator_loss(*outputs)]
        assert {value.dtype for value in found} == {torch.float32}
        return [value.item() for value in found]

    expected = values()
    with torch.autocast("cpu", torch.bfloat16):
        assert values() == expected


def test_unknown_forms_are_errors() -> None:
    with pytest.raises(ValueError, match=r"generator to be one of .* got 'hinge2'"):
        AdversarialLoss("hinge2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"feature_matching to be one of .* got 'l1'"):
        AdversarialLoss(feature_matching="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reduction to be one of .* got 'none'"):
        AdversarialLoss(reduction="none")  # type: ignore[arg-type]


def test_missing_logits_and_features_of_other_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one sub-discriminator"):
        generator_loss([])
    for estimate, reference in (
        ([[torch.zeros(2)]], [[torch.zeros(3)]]),
        ([[torch.zeros(2)]], [[torch.zeros(2)], [torch.zeros(2)]]),
        ([], []),
        ([[]], [[]]),
    ):
        with pytest.raises(ValueError, match="features of the same shapes"):
            feature_matching_loss(estimate, reference, relative=True)


@pytest.mark.parametrize("relative", [False, True])
def test_bfloat16_features_of_channels_give_the_mean_of_float64(relative: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, reference = (
        torch.randn(2, 20, 30, 32, generator=generator).bfloat16().permute(0, 3, 1, 2) + shift for shift in (0, 2)
    )
    found = feature_matching_loss([[estimate]], [[reference]], relative)
    difference = (estimate - reference).double().abs().mean()  # the difference itself is rounded to bfloat16
    expected = difference / reference.double().abs().mean() if relative else difference
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)


def test_float16_features_whose_sum_it_cannot_hold() -> None:
    features = torch.full((1, 1, 300, 300), 2.0, dtype=torch.float16)
    assert feature_matching_loss([[0 * features]], [[features]], relative=False).item() == 2.0
