"""Codecs with a `celu_alpha` of their own, as the ELU that everyone else has computes them."""

from dataclasses import replace

import torch

from codec.config import CodecConfig
from codec.model import Codec
from codec.network.conv import Conv1d, ConvTranspose1d, scale_of

__all__ = ["celu_problem", "with_unit_celu"]


def celu_problem(config: CodecConfig) -> str | None:
    """Why `with_unit_celu` cannot serve a codec of this config, or None."""
    if config.celu_alpha == 1 or (config.lstm_layers == 0 and config.norm != "time_group_norm"):
        return None
    reason = "an LSTM" if config.lstm_layers else "group norms"
    return f"celu_alpha is {config.celu_alpha:g}, and with {reason} activations have no other scale to be computed at"


@torch.no_grad()
def with_unit_celu(codec: Codec) -> Codec:
    """The same codec with an alpha of 1: as CELU_alpha(x) = alpha ELU(x / alpha), one whose activations are 1 / alpha
    times as large computes the same. The first convolution makes them so, the last one undoes it.

    Raises:
        ValueError: A layer between them has a scale of its own.
    """
    config = codec.config
    if config.celu_alpha == 1:
        return codec
    if problem := celu_problem(config):
        raise ValueError(problem)
    same = Codec(replace(config, celu_alpha=1.0)).eval()
    same.load_state_dict(codec.state_dict())
    gain = 1 / config.celu_alpha
    for network in (same.encoder, same.decoder):
        convolutions = [layer for layer in network.modules() if isinstance(layer, Conv1d | ConvTranspose1d)]
        for layer in convolutions[:-1]:
            layer.conv.get_parameter("bias").mul_(gain)
        scale_of(convolutions[0]).mul_(gain)
        scale_of(convolutions[-1]).div_(gain)
    return same
