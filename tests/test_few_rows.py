"""Products of a few rows, against torch's own in float64."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from codec import few_rows


@pytest.fixture(params=["GenuineIntel", "AuthenticAMD"], autouse=True)
def vendor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways are right on any CPU."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {request.param}\n")
    monkeypatch.setattr("codec.cpu._CPUINFO", tmp_path / "cpuinfo")
    few_rows._made_by_amd.cache_clear()
    yield request.param
    few_rows._made_by_amd.cache_clear()


def test_only_amd_is_taken_for_amd(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert few_rows._made_by_amd() == (vendor == "AuthenticAMD")
    few_rows._made_by_amd.cache_clear()
    monkeypatch.setattr("codec.cpu._CPUINFO", Path("nowhere"))
    monkeypatch.setattr("platform.processor", lambda: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD")
    assert few_rows._made_by_amd()


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
