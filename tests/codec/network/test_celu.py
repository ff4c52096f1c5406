"""The activation against torch's own, in value and gradient."""

from typing import Literal

import pytest
import torch
from torch.nn import functional as F

from codec.network.activations import CELU, padded_celu

pytestmark = pytest.mark.usefixtures("vendor")

EDGES = torch.tensor([0.0, -0.0, 1e-8, -1e-8, -1e-4, 3.0, -3.0, -90.0, -1e4, 1e30, float("inf"), float("-inf")])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1.2e-7)])
def test_values_are_torchs(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.cat([EDGES, torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3]).to(dtype)
    torch.testing.assert_close(CELU()(x), F.elu(x), rtol=tolerance, atol=tolerance)
    for alpha in (0.001, 0.3, 7.0):
        torch.testing.assert_close(CELU(alpha)(x), F.celu(x, alpha), rtol=tolerance, atol=alpha * tolerance)


def test_bfloat16_is_the_rounded_value() -> None:
    x = torch.linspace(-6, 2, 4001).bfloat16()
    assert CELU()(x).dtype == torch.bfloat16
    torch.testing.assert_close(CELU()(x), F.elu(x.double()).bfloat16(), rtol=2**-7, atol=1e-7)


def test_nan_stays_nan() -> None:
    assert CELU()(torch.tensor([float("nan"), 1.0])).isnan().tolist() == [True, False]


def test_gradients_are_the_derivative() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    edges = EDGES[:9].clone().requires_grad_()
    for alpha in (0.3, 1.0, 7.0):
        assert torch.autograd.gradcheck(CELU(alpha), (x,))
        (found,) = torch.autograd.grad(CELU(alpha)(edges).sum(), [edges])
        (wanted,) = torch.autograd.grad(F.celu(edges, alpha).sum(), [edges])
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_input_is_not_kept_for_the_backward_pass() -> None:
    x = torch.randn(3, requires_grad=True)
    y = CELU()(x)
    (kept,) = y.grad_fn.saved_tensors
    assert kept.data_ptr() == y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (6, 0), (3, 4), (0, 2), (6, 6)])
def test_padded_it_is_the_activation_and_the_padding(
    left: int, right: int, mode: Literal["reflect", "constant"]
) -> None:
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    for alpha in (1.0, 0.3):
        y = padded_celu(x, alpha, left, right, mode)
        torch.testing.assert_close(y, F.pad(F.celu(x, alpha), (left, right), mode), rtol=1e-15, atol=1e-15)
        assert y.transpose(1, 2).is_contiguous(), "channels side by side"
        assert torch.autograd.gradcheck(lambda x, alpha=alpha: padded_celu(x, alpha, left, right, mode), (x,))


def test_padded_the_backward_pass_keeps_the_output_alone() -> None:
    y = padded_celu(torch.randn(1, 2, 5, requires_grad=True), 1.0, 2, 1, "reflect")
    (kept,) = y.grad_fn.saved_tensors
    assert kept.data_ptr() == y.data_ptr()


def test_under_autocast_both_have_the_dtype_that_the_next_layer_wants() -> None:
    x = torch.randn(2, 3, 7, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        plain, padded = CELU()(x), padded_celu(x, 1.0, 2, 0, "reflect")
        assert CELU()(x.double()).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert CELU()(x).dtype == torch.float32
    assert torch.equal(plain, CELU()(x).bfloat16())
    assert torch.equal(padded, F.pad(plain, (2, 0), "reflect"))
    for output in (plain, padded):
        (gradient,) = torch.autograd.grad(output.sum(), [x])
        assert gradient.dtype == torch.float32
        precise = padded_celu(x, 1.0, 2, 0, "reflect") if output is padded else CELU()(x)
        torch.testing.assert_close(gradient, torch.autograd.grad(precise.sum(), [x])[0], rtol=2**-6, atol=0)
