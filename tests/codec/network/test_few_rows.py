"""Products of a few rows, against torch's own in float64."""

import pytest
import torch
from torch.nn import functional as F

from codec.network import few_rows

pytestmark = pytest.mark.usefixtures("vendor")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [1, 6, 7])
@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (5,), (1, 1, 5), (2, 2, 5), (3, 7, 5), (0, 5), (1, 3000)])
def test_it_is_a_linear_layer(shape: tuple[int, ...], outputs: int, bias: bool) -> None:
    x, weight = torch.randn(shape), torch.randn(outputs, shape[-1])
    added = torch.randn(outputs) if bias else None
    expected = F.linear(x.double(), weight.double(), None if added is None else added.double())
    torch.testing.assert_close(few_rows.linear(x, weight, added).double(), expected, rtol=0, atol=1e-4)


def test_it_takes_rows_and_weights_that_lie_otherwise() -> None:
    x, weight = torch.randn(5, 1).t(), torch.randn(5, 6).t()
    torch.testing.assert_close(few_rows.linear(x, weight), x @ weight.t())


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_under_autocast_it_has_the_dtype_of_a_linear_layer(rows: int) -> None:
    x, weight, bias = torch.randn(rows, 5), torch.randn(6, 5), torch.randn(6)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = few_rows.linear(x, weight, bias), F.linear(x, weight, bias)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6)
