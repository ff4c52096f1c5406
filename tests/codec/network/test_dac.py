"""DAC's network: sizes of the published models, settings and gradients. Values are compared in interop/test_dac.py."""

from typing import Any

import pytest
import torch
from torch import nn

from codec.network import DACNetwork
from codec.network.activations import Snake


@pytest.mark.parametrize(
    ("settings", "millions"),
    # 24 and 44.1 kHz: the decoder's width and the strides differ from those of 16 kHz in transformers' defaults.
    [({}, 74.1), ({"strides": (2, 4, 8, 8)}, 76.0)],
)
def test_sizes(settings: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        network = DACNetwork(**settings)
        count = sum(p.numel() for part in (network.make_encoder(), network.make_decoder()) for p in part.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=1)


@pytest.mark.parametrize("channels", [1, 2])
def test_shapes_and_gradients(channels: int) -> None:
    network = DACNetwork(channels=channels, encoder_filters=3, decoder_filters=12, strides=[3, 2], latent_dim=5)
    encoder, decoder = network.make_encoder(), network.make_decoder()
    assert not network.causal
    for samples in (1, 6, 47):
        latent = encoder(torch.randn(2, channels, samples))
        assert latent.shape == (2, 5, -(-samples // 6))
        assert decoder(latent).shape == (2, channels, 6 * latent.shape[-1])
    decoder(latent).square().sum().backward()
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert decoder.output_layer.out_channels == channels
    assert encoder.input_layer.in_channels == channels


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_initial_weights_are_those_that_dac_is_trained_from() -> None:
    """DAC's `init_weights` on a convolution of its kind. Weight normalization undoes all of it but the zero biases."""
    torch.manual_seed(0)
    theirs = torch.nn.utils.weight_norm(nn.Conv1d(64, 64, 7))
    nn.init.trunc_normal_(theirs.weight, std=0.02)
    nn.init.zeros_(theirs.bias)  # type: ignore[arg-type]
    theirs(torch.zeros(1, 64, 9))  # computes the weight
    encoder = DACNetwork().make_encoder()
    convs = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv1d)]
    assert convs[1].weight.shape == theirs.weight.shape
    assert convs[1].weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.03)
    assert convs[0].weight.std().item() == pytest.approx((1 / 3 / 7) ** 0.5, rel=0.15)  # uniform in ±1 / sqrt(7)
    assert not any(conv.bias.any() for conv in convs)


def test_snake() -> None:
    """x + sin^2(a x) / a, with the gradient of autograd at each frequency."""
    layer = Snake(2).double()
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.5, 3.0])[None, :, None])
    x = torch.randn(1, 2, 50, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.5, 3.0], dtype=torch.float64)[None, :, None]
    torch.testing.assert_close(layer(x), x + torch.sin(alpha * x) ** 2 / alpha, rtol=1e-7, atol=1e-8)
    (slope,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(slope, 1 + torch.sin(2 * alpha * x.detach()), rtol=1e-7, atol=1e-8)
    assert bool((slope >= 0).all()), "it rises everywhere"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [1, 2]}, r"strides.0 must be a whole number in \[2, 4096\], got 1"),
        ({"decoder_filters": 20}, "decoder_filters must be a multiple of 16, .* got 20"),
        ({"channels": 3}, r"channels must be a whole number in \[1, 2\], got 3"),
        ({"encoder_filters": 0}, r"encoder_filters must be a whole number in \[1, 131072\], got 0"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DACNetwork(**changes)
