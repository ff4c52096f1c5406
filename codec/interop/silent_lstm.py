"""An LSTM whose output is zero, for codecs without an LSTM in a format that always has one.

With all weights and biases 0 the cell candidate is tanh(0) = 0, so cell and output stay exactly 0. With the skip
connection beside the LSTM the layer is the identity.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["with_silent_lstm", "without_silent_lstm"]

_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.*)")


def with_silent_lstm(layers: dict[str, Tensor], positions: dict[str, int], width: int) -> dict[str, Tensor]:
    """Adds an LSTM of one layer with zero weights to the encoder and to the decoder.

    Args:
        layers: State dict with names `encoder.layers.N. ...` and `decoder.layers.N. ...`.
        positions: Index of the LSTM in "encoder" and "decoder"; the layers from there on move up.
        width: Channels at that position.
    """
    moved = _renumbered(layers, lambda side, number: number + (number >= positions[side]))
    for side, position in positions.items():
        for part in ("ih", "hh"):
            moved[f"{side}.layers.{position}.lstm.weight_{part}_l0"] = torch.zeros(4 * width, width)
            moved[f"{side}.layers.{position}.lstm.bias_{part}_l0"] = torch.zeros(4 * width)
    return moved


def without_silent_lstm(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `with_silent_lstm`. A network whose LSTMs have other weights is returned as it is."""
    found = {name: match for name in layers if ".lstm." in name and (match := _LAYER.fullmatch(name))}
    if any(bool(layers[name].any()) for name in found):
        return layers
    positions = {match[1]: int(match[2]) for match in found.values()}
    rest = {name: tensor for name, tensor in layers.items() if name not in found}
    return _renumbered(rest, lambda side, number: number - (side in positions and number > positions[side]))


def _renumbered(layers: dict[str, Tensor], number_of: Callable[[str, int], int]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in layers.items():
        match = _LAYER.fullmatch(name)
        renamed[f"{match[1]}.layers.{number_of(match[1], int(match[2]))}.{match[3]}" if match else name] = tensor
    return renamed
