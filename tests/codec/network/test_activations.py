"""The ELU against torch's own, in value and gradient."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from codec.network.activations import ELU, make_activation

EDGES = torch.tensor([0.0, -0.0, 1e-8, -1e-8, -1e-4, 3.0, -3.0, -90.0, -1e4, 1e30, float("inf"), float("-inf")])


def test_names_select_the_activation() -> None:
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(make_activation("relu", 1)(x), F.relu(x))
    assert isinstance(make_activation("elu", 1), nn.ELU)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1.2e-7)])
def test_values_equal_torch(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.cat([EDGES, torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3]).to(dtype)
    torch.testing.assert_close(ELU()(x), F.elu(x), rtol=tolerance, atol=tolerance)


def test_bfloat16_is_the_rounded_value() -> None:
    x = torch.linspace(-6, 2, 4001).bfloat16()
    assert ELU()(x).dtype == torch.bfloat16
    torch.testing.assert_close(ELU()(x), F.elu(x.double()).bfloat16(), rtol=2**-7, atol=1e-7)


def test_nan_stays_nan() -> None:
    assert ELU()(torch.tensor([float("nan"), 1.0])).isnan().tolist() == [True, False]


def test_gradients_are_the_derivative() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(ELU(), (x,))
    edges = EDGES[:9].clone().requires_grad_()
    (found,) = torch.autograd.grad(ELU()(edges).sum(), [edges])
    (expected,) = torch.autograd.grad(F.elu(edges).sum(), [edges])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_input_is_not_kept_for_the_backward_pass() -> None:
    x = torch.randn(3, requires_grad=True)
    y = ELU()(x)
    (kept,) = y.grad_fn.saved_tensors
    assert kept.data_ptr() == y.data_ptr() != x.data_ptr()
