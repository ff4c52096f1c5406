"""The energy distance: value and gradient against plain autograd, and a scale that a plain distance gets wrong."""

import pytest
import torch
from torch import Tensor, nn

from losses import L1, EnergyDistance, MultiScaleMel
from tiny_run import tones


class Curved(nn.Module):
    """A symmetric distance that is no function of the difference. No gradient flows to the reference."""

    minimum_samples = 3

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return curved(estimate, reference.detach()).mean()


def curved(x: Tensor, y: Tensor) -> Tensor:
    return (x**3 + x - y**3 - y).abs()


def test_value_and_gradient_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    estimate = torch.randn(6, 2, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(3, 2, 9, generator=generator, dtype=torch.float64).repeat_interleave(2, 0)
    expected = curved(estimate, reference).mean() - 0.5 * curved(estimate[::2], estimate[1::2]).mean()
    found = EnergyDistance(Curved())(estimate, reference)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, estimate)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_without_pairs_it_is_the_distance(batch: int) -> None:
    estimate, reference = torch.randn(2, batch, 1, 9)
    if batch == 4:
        reference[1] = reference[0]  # one pair of two
    estimate.requires_grad_()
    found, expected = EnergyDistance(Curved())(estimate, reference), Curved()(estimate, reference)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, estimate), torch.autograd.grad(expected, estimate))


def test_equal_outputs_have_no_repulsion_and_a_finite_gradient() -> None:
    estimate = tones(1, 400).repeat(2, 1, 1).requires_grad_()
    reference = tones(1, 400, seed=1).repeat(2, 1, 1)
    mel = MultiScaleMel(8000, [5, 6], mels=16)
    found = EnergyDistance(mel)(estimate, reference)
    torch.testing.assert_close(found, mel(estimate, reference))
    (gradient,) = torch.autograd.grad(found, estimate)
    torch.testing.assert_close(gradient, torch.autograd.grad(mel(estimate, reference), estimate)[0])


def test_noise_is_learned_with_its_level() -> None:
    """References are Gaussian. The plain distance is lowest without noise, the energy distance at their deviation."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(50_000, 1, 1, generator=generator).repeat_interleave(2, 0)
    noise = torch.randn(100_000, 1, 1, generator=generator)
    deviations = [0.0, 0.5, 0.8, 1.0, 1.25, 2.0]
    plain = [float(L1()(deviation * noise, reference)) for deviation in deviations]
    energy = [float(EnergyDistance(L1())(deviation * noise, reference)) for deviation in deviations]
    assert plain.index(min(plain)) == 0
    assert energy.index(min(energy)) == 3


def test_windows_are_those_of_the_distance() -> None:
    mel = MultiScaleMel(8000, [5, 6], mels=16)
    loss = EnergyDistance(mel)
    assert (loss.minimum_samples, loss.window_samples) == (mel.minimum_samples, mel.window_samples)
