"""Channels-last convolutions equal torch's own, and keep the layout in both directions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from codec.network import channels_last
from codec.network.conv import ConvTranspose1d
from codec_inputs import seanet_config, seanet_of


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a signal [B, C, T] are contiguous in memory."""
    return x.transpose(1, 2).is_contiguous()


def signal(channels: int, samples: int, layout: str) -> Tensor:
    x = torch.randn(3, channels, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if layout == "channels_last":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return torch.cat([x, x], -1)[..., :samples] if layout == "slice" else x


LAYOUTS = pytest.mark.parametrize("layout", ["channels_first", "channels_last", "slice"])


@LAYOUTS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 5), (5, 1), (4, 6)])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (7, 1, 1), (3, 1, 2), (4, 2, 1)])
def test_convolution_equals_torch(
    inputs: int, outputs: int, kernel: int, stride: int, dilation: int, bias: bool, layout: str
) -> None:
    layer = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, bias=bias).double()
    compare(
        layer,
        lambda x: channels_last.conv1d(x, layer.weight, layer.bias, stride, dilation),
        signal(inputs, 20, layout),
    )


@LAYOUTS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 5), (5, 1), (4, 6)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (4, 2), (6, 3)])
def test_transposed_convolution_equals_torch(
    inputs: int, outputs: int, kernel: int, stride: int, bias: bool, layout: str
) -> None:
    layer = nn.ConvTranspose1d(inputs, outputs, kernel, stride, bias=bias).double()
    compare(
        layer,
        lambda x: channels_last.conv_transpose1d(x, layer.weight, layer.bias, stride),
        signal(inputs, 9, layout),
    )


def compare(layer: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x.requires_grad_()
    found, expected = function(x), layer(x)
    assert is_channels_last(found)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slope = torch.randn(found.shape, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    assert_close(
        torch.autograd.grad(found, inputs, slope), torch.autograd.grad(expected, inputs, slope), rtol=1e-12, atol=1e-12
    )


def test_layers_with_many_weights_use_torch_as_it_is() -> None:
    weight = torch.randn(1 << 8, 1 << 8, 17)
    x = signal(1 << 8, 20, "channels_last").float()
    assert torch.equal(channels_last.conv1d(x, weight, None), F.conv1d(x, weight))
    assert torch.equal(channels_last.conv_transpose1d(x, weight, None, 2), F.conv_transpose1d(x, weight, None, 2))


@LAYOUTS
@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_padding_joining_and_trimming_keep_the_layout(mode: str, layout: str) -> None:
    x = signal(4, 9, layout)
    padded = channels_last.pad(x, 3, 2, mode)
    assert torch.equal(padded, F.pad(x, (3, 2), mode))
    joined = channels_last.cat([x, x[..., :2]])
    assert torch.equal(joined, torch.cat([x, x[..., :2]], -1))
    trimmed = channels_last.trim(x, 2, 3)
    assert torch.equal(trimmed, x[..., 2:6])
    assert torch.equal(channels_last.trim(x, 0, 0), x)
    if layout == "channels_last":
        assert is_channels_last(padded)
        assert is_channels_last(joined)


def test_a_codecs_layers_and_their_gradients_lie_is_channels_last() -> None:
    """Otherwise every layer would rearrange its input, and nothing would be gained."""
    config = seanet_config(filters=4, latent_dim=8, lstm_layers=0)
    torch.manual_seed(0)
    seen: list[tuple[str, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = type(module).__name__
        seen.append((f"output of {name}", output))
        output.register_hook(lambda gradient: seen.append((f"gradient of {name}", gradient)))

    networks = seanet_of(config).make_encoder(), seanet_of(config).make_decoder()
    for network in networks:
        for module in network.modules():
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d, nn.ELU)):
                module.register_forward_hook(record)
    networks[1](networks[0](torch.randn(2, 1, 3200))).square().sum().backward()
    assert {"output of ELU", "gradient of ELU", "gradient of Parametrized_Conv1d"} <= {name for name, _ in seen}
    assert [name for name, x in seen if not is_channels_last(x)] == []


def test_the_gradient_of_a_trimmed_output_keeps_the_layout() -> None:
    layer = ConvTranspose1d(4, 3, 4, stride=2, causal=True, norm="none")
    gradients: list[Tensor] = []
    layer.conv.register_forward_hook(lambda module, inputs, output: output.register_hook(gradients.append) and None)
    layer(signal(4, 6, "channels_last").float()).sum().backward()
    assert [is_channels_last(gradient) for gradient in gradients] == [True]
