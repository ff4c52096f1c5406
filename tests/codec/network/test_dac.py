"""DAC's network: sizes of the published models, settings and gradients. Values are compared in interop/test_dac.py."""

from typing import Any

import pytest
import torch

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
