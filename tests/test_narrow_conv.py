"""The narrow convolution is torch's own, forward and backward."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from losses.narrow_conv import NarrowConv2d


def pair(channels: int, kernel: tuple[int, int]) -> tuple[NarrowConv2d, nn.Conv2d]:
    torch.manual_seed(0)
    narrow = NarrowConv2d(channels, 5, kernel)
    plain = nn.Conv2d(channels, 5, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    plain.load_state_dict(narrow.state_dict())
    return narrow, plain


@pytest.mark.parametrize("bins", [1, 9, 15, 16, 17, 33, 65])
@pytest.mark.parametrize(("channels", "kernel"), [(2, (3, 9)), (1, (1, 1)), (3, (5, 3))])
@pytest.mark.parametrize("channels_last", [False, True])
def test_output_and_gradients_are_those_of_torch(
    bins: int, channels: int, kernel: tuple[int, int], channels_last: bool
) -> None:
    layers = pair(channels, kernel)
    found = []
    for layer in layers:
        generator = torch.Generator().manual_seed(1)
        signal = torch.randn(2, channels, 7, bins, generator=generator)
        if channels_last:
            signal, layer = (
                signal.contiguous(memory_format=torch.channels_last),
                layer.to(memory_format=torch.channels_last),
            )
        signal.requires_grad_()
        output = layer(signal)
        slope = torch.randn(output.shape, generator=generator)
        found.append([output, *torch.autograd.grad(output, [signal, layer.weight, layer.bias], slope)])
    for narrow, plain in zip(*found, strict=True):
        assert_close(narrow, plain, atol=2e-5, rtol=1e-5)


def test_gradients_in_float64() -> None:
    layer = NarrowConv2d(2, 3, (3, 3)).double()
    signal = torch.randn(
        1, 2, 4, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(layer, [signal])


def test_a_frozen_layer_passes_the_gradient_on_and_a_fixed_input_gets_none() -> None:
    layer = NarrowConv2d(2, 3, (3, 9)).requires_grad_(False)
    signal = torch.ones(1, 2, 4, 20, requires_grad=True)
    layer(signal).sum().backward()
    assert signal.grad is not None
    assert layer.weight.grad is None
    layer.requires_grad_(True)(signal.detach()).sum().backward()
    assert layer.weight.grad is not None


def test_autocast_computes_forward_and_backward_in_bfloat16() -> None:
    narrow, plain = pair(2, (3, 9))
    found = []
    for layer in (narrow, plain):
        signal = torch.randn(2, 2, 8, 40, generator=torch.Generator().manual_seed(1), requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(signal)
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        assert signal.grad is not None
        assert layer.weight.grad is not None
        found.append((signal.grad, layer.weight.grad))
    for a, b in zip(*found, strict=True):
        assert a.dtype == torch.float32
        assert torch.linalg.vector_norm(a - b) < 0.02 * torch.linalg.vector_norm(b)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be odd, got \(3, 8\)"):
        NarrowConv2d(2, 3, (3, 8))
