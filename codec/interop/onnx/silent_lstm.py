"""An LSTM that adds nothing, for codecs without one in a format that always has one.

With all weights and biases 0 the candidate of every gate is tanh(0) = 0, so the cell stays at 0 and so does the output,
exactly; what is left is the skip connection beside the LSTM, that is the identity.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["with_silent_lstm", "without_silent_lstm"]

_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.*)")


def with_silent_lstm(layers: dict[str, Tensor], places: dict[str, int], width: int) -> dict[str, Tensor]:
    """The same network with an LSTM of one layer and no effect in the encoder and in the decoder.

    Args:
        layers: State dict with names `encoder.layers.N. ...` and `decoder.layers.N. ...`.
        places: Number that the LSTM gets, for "encoder" and "decoder"; the layers from there on move up.
        width: Of the latent where it stands.
    """
    moved = _renumbered(layers, lambda side, number: number + (number >= places[side]))
    for side, place in places.items():
        for part in ("ih", "hh"):
            moved[f"{side}.layers.{place}.lstm.weight_{part}_l0"] = torch.zeros(4 * width, width)
            moved[f"{side}.layers.{place}.lstm.bias_{part}_l0"] = torch.zeros(4 * width)
    return moved


def without_silent_lstm(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `with_silent_lstm`; a network whose LSTMs have an effect stays as it is."""
    found = {name: match for name in layers if ".lstm." in name and (match := _LAYER.fullmatch(name))}
    if any(bool(layers[name].any()) for name in found):
        return layers
    places = {match[1]: int(match[2]) for match in found.values()}
    rest = {name: tensor for name, tensor in layers.items() if name not in found}
    return _renumbered(rest, lambda side, number: number - (side in places and number > places[side]))


def _renumbered(layers: dict[str, Tensor], number_of: Callable[[str, int], int]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in layers.items():
        match = _LAYER.fullmatch(name)
        renamed[f"{match[1]}.layers.{number_of(match[1], int(match[2]))}.{match[3]}" if match else name] = tensor
    return renamed
