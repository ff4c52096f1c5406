"""Codecs with ReLU activations for formats that know ELU only."""

import torch

from codec.config import CodecConfig
from codec.model import Codec
from codec.model_file import make_codec
from codec.network.conv import Conv1d, ConvTranspose1d, weight_gain

__all__ = ["activation_problem", "with_elu"]

# ELU(g x) / g differs from ReLU(x) by at most 1 / g.
_GAIN = 1e6


def activation_problem(config: CodecConfig) -> str | None:
    """Why `with_elu` cannot convert a codec of this config, or None."""
    network = config.network
    if network["activation"] == "snake":
        return "activation is snake, expected elu or relu"
    if network["activation"] == "elu" or (network["lstm_layers"] == 0 and network["norm"] != "time_group_norm"):
        return None
    reason = "an LSTM" if network["lstm_layers"] else "group norms"
    return (
        f"activation is {network['activation']}, and with {reason} the activations cannot be scaled to those of an ELU"
    )


@torch.no_grad()
def with_elu(codec: Codec) -> Codec:
    """The same codec with ELU activations, to within 1e-6 per activation.

    Its activations are `_GAIN` times as large, where an ELU is nearly a ReLU. The first convolution scales them up, the
    last one scales them down.

    Raises:
        ValueError: A layer between the two is not linear in its scale.
    """
    settings = codec.config.to_dict()
    if settings["network"]["activation"] == "elu":
        return codec
    if problem := activation_problem(codec.config):
        raise ValueError(problem)
    same = make_codec(settings | {"network": settings["network"] | {"activation": "elu"}}).eval()
    same.load_state_dict(codec.state_dict())
    for network in (same.encoder, same.decoder):
        convolutions = [layer for layer in network.modules() if isinstance(layer, Conv1d | ConvTranspose1d)]
        for layer in convolutions[:-1]:
            layer.conv.get_parameter("bias").mul_(_GAIN)
        weight_gain(convolutions[0]).mul_(_GAIN)
        weight_gain(convolutions[-1]).div_(_GAIN)
    return same
