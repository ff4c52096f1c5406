"""L1, L2 and SI-SDR against NumPy in float64, worked numbers and degenerate signals."""

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import L1, L2, SISDR, si_sdr


def _pair(shape: tuple[int, ...] = (3, 2, 500), dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = 0.3 * torch.randn(shape, generator=generator, dtype=dtype)
    return reference + 0.1 * torch.randn(shape, generator=generator, dtype=dtype), reference


def _numpy_si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    explained = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * np.log10((explained @ explained) / ((explained - estimate) @ (explained - estimate))))


def test_l1_and_l2_are_the_mean_absolute_and_mean_squared_difference() -> None:
    estimate, reference = _pair()
    difference = estimate.double().numpy() - reference.double().numpy()
    assert L1()(estimate, reference).item() == pytest.approx(np.abs(difference).mean(), rel=1e-6)
    assert L2()(estimate, reference).item() == pytest.approx((difference**2).mean(), rel=1e-6)


def test_l1_grows_with_the_signal_and_l2_with_its_square() -> None:
    estimate, reference = _pair()
    for loss, factor in ((L1(), 4.0), (L2(), 16.0)):
        torch.testing.assert_close(loss(4 * estimate, 4 * reference), factor * loss(estimate, reference))


@pytest.mark.parametrize("loss", [L1(), L2()])
def test_distance_to_itself_is_zero(loss: torch.nn.Module) -> None:
    _, reference = _pair()
    assert loss(reference, reference).item() == 0.0


def test_si_sdr_equals_torchmetrics_documented_example() -> None:
    reference = torch.tensor([3.0, -0.5, 2.0, 7.0]).reshape(1, 1, 4)
    estimate = torch.tensor([2.5, 0.0, 2.0, 8.0]).reshape(1, 1, 4)
    assert si_sdr(estimate, reference).item() == pytest.approx(18.4030, abs=1e-4)


def test_si_sdr_is_a_number_for_each_item_and_the_mean_of_its_channels() -> None:
    estimate, reference = _pair()
    expected = [
        np.mean([_numpy_si_sdr(e, r) for e, r in zip(channels_e, channels_r, strict=True)])
        for channels_e, channels_r in zip(estimate.double().numpy(), reference.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(si_sdr(estimate, reference).numpy(), expected, atol=1e-4)
    assert SISDR()(estimate, reference).item() == pytest.approx(-np.mean(expected), abs=1e-4)


def test_si_sdr_ignores_the_scale_of_the_estimate_and_the_mean_if_asked() -> None:
    estimate, reference = _pair(dtype=torch.float64)
    expected = si_sdr(estimate, reference, zero_mean=True)
    torch.testing.assert_close(si_sdr(-7 * estimate, reference, zero_mean=True), expected)
    torch.testing.assert_close(si_sdr(estimate + 0.5, reference - 2, zero_mean=True), expected)
    assert (si_sdr(estimate + 0.5, reference) < expected - 3).all()
    module = SISDR(zero_mean=True)
    torch.testing.assert_close(module(estimate + 0.5, reference), -expected.mean())


def test_noise_at_minus_20_db_that_is_orthogonal_gives_20_db() -> None:
    phase = 2 * torch.pi * torch.arange(1000, dtype=torch.float64) / 1000
    reference = (10 * phase).sin().reshape(1, 1, -1)
    noise = (10 * phase).cos().reshape(1, 1, -1)
    assert si_sdr(reference + 0.1 * noise, reference).item() == pytest.approx(20.0, abs=1e-6)


@pytest.mark.parametrize("silent", ["estimate", "reference", "both"])
def test_silence_gives_finite_values_and_gradients(silent: str) -> None:
    estimate, reference = _pair((1, 1, 64))
    estimate = (torch.zeros_like(estimate) if silent != "reference" else estimate).requires_grad_()
    reference = torch.zeros_like(reference) if silent != "estimate" else reference
    for loss in (L1(), L2(), SISDR()):
        value = loss(estimate, reference)
        (gradient,) = torch.autograd.grad(value, estimate)
        assert value.isfinite()
        assert gradient.isfinite().all()
    if silent != "reference":
        assert si_sdr(estimate, reference).item() == pytest.approx(0.0, abs=1e-3)


def test_si_sdr_gradient_matches_finite_differences() -> None:
    estimate, reference = _pair((2, 1, 12), torch.float64)
    assert torch.autograd.gradcheck(lambda signal: SISDR()(signal, reference), estimate.requires_grad_())


@pytest.mark.parametrize("loss", [L1(), L2(), SISDR()])
def test_values_are_float32_under_bfloat16_autocast_and_from_bfloat16_signals(loss: torch.nn.Module) -> None:
    estimate, reference = _pair()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(estimate, reference)
    assert torch.equal(inside, loss(estimate, reference))
    assert loss(estimate.bfloat16(), reference.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", [L1(), L2(), SISDR()])
def test_shapes_that_differ_or_are_not_batch_channels_samples_are_errors(loss: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"one shape, got \[1, 1, 4\] and \[1, 2, 4\]"):
        loss(torch.zeros(1, 1, 4), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match=r"\[B, C, T\], got \[1, 4\]"):
        loss(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="at least 1 samples, got audio of 0 samples"):
        loss(torch.zeros(1, 1, 0), torch.zeros(1, 1, 0))
