"""`receptive_field`: how far back the output of layers depends on their input."""

import pytest
import torch

from codec.model_file import make_codec
from codec.network.stream import receptive_field
from codec_inputs import seanet_config
from coding_inputs import TINY, tiny_codec


@pytest.mark.parametrize(
    "changes",
    [{}, {"strides": (3, 1, 2)}, {"residual_layers": 3}, {"skip": "identity"}, {"kernel_size": 4, "strides": (5,)}],
)
def test_receptive_field_is_the_reach_of_the_gradient(changes: dict[str, object]) -> None:
    config = seanet_config(**(TINY | {"lstm_layers": 0, "padding": "constant", "bandwidths_kbps": ()} | changes))
    layers = list(make_codec(config.to_dict()).decoder.layers)
    past = int(receptive_field(layers))
    latent = torch.randn(1, config.latent_dim, past + 8, requires_grad=True)
    audio = torch.nn.Sequential(*layers)(latent)
    frame = past + 3
    first = audio[..., frame * config.hop_samples].sum()
    (gradient,) = torch.autograd.grad(first, latent)
    reached = gradient.abs().sum((0, 1)).nonzero().flatten()
    assert int(reached.max()) == frame
    assert int(reached.min()) >= frame - past
    # The formula takes the worst case of each layer, so it may be one frame too large.
    assert int(reached.min()) <= frame - past + 1


def test_an_lstm_never_forgets() -> None:
    assert receptive_field(list(tiny_codec("causal").decoder.layers)) == float("inf")
