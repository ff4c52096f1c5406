"""Convolutions from or to very few channels are torch's own, forward and backward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from codec.network.conv import Conv1d
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


class Backward(TorchDispatchMode):
    """Notes the gradients of convolutions that torch is asked for: of input, weight, bias."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[list[bool]] = []
        self.convolutions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(args[-1])
        self.convolutions += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def test_only_what_is_asked_for_is_computed() -> None:
    layer = NarrowConv2d(2, 3, (3, 9))
    signal = torch.ones(1, 2, 4, 20, requires_grad=True)
    loss = layer(signal).sum()
    with Backward() as to_weights:
        torch.autograd.backward(loss, inputs=list(layer.parameters()), retain_graph=True)
    assert (to_weights.masks, to_weights.convolutions) == ([[False, True, True]], 0)
    with Backward() as to_input:
        torch.autograd.grad(loss, signal)
    assert (to_input.masks, to_input.convolutions) == ([], 1)


def test_what_comes_out_may_be_overwritten() -> None:
    layer = NarrowConv2d(2, 3, (3, 9))
    signal = torch.randn(1, 2, 4, 20, generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted, found = (
        torch.autograd.grad(nn.functional.leaky_relu(layer(signal), 0.2, inplace).sum(), [signal, layer.weight])
        for inplace in (False, True)
    )
    assert_close(found, wanted, rtol=0, atol=0)


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


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 7])
@pytest.mark.parametrize("samples", [7, 50])
@pytest.mark.parametrize("norm", ["weight_norm", "none"])
def test_a_codecs_last_layer_has_the_gradients_of_torch(channels: int, kernel: int, samples: int, norm: Any) -> None:
    torch.manual_seed(0)
    layer = Conv1d(5, channels, kernel, causal=True, norm=norm, padding="reflect")
    assert type(layer.conv).__mro__[norm == "weight_norm"].__name__ == "_NarrowConv1d"  # the one that is tested
    x = torch.randn(3, 5, samples, requires_grad=True)
    wanted = nn.functional.conv1d(nn.functional.pad(x, (kernel - 1, 0), "reflect"), layer.conv.weight, layer.conv.bias)
    slope = torch.randn(wanted.shape)
    inputs: list[Tensor] = [x, *layer.parameters()]
    found = layer(x)
    assert_close(found, wanted)
    assert_close(torch.autograd.grad(found, inputs, slope), torch.autograd.grad(wanted, inputs, slope))


def test_a_narrow_layer_in_float64() -> None:
    layer = Conv1d(3, 2, 4, causal=False, norm="none", padding="constant").double()
    x = torch.randn(2, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight, bias = layer.conv.weight, layer.conv.bias
    assert torch.autograd.gradcheck(lambda *inputs: layer(inputs[0]), [x, weight, bias])
    layer.conv.bias = None
    assert torch.autograd.gradcheck(layer, [x])
    assert layer(x.detach()).grad_fn is not None
