"""Streams: layers with a memory, which are fed piece by piece.

A layer of a causal network has a method `stream()`. It returns a `Stream` that holds what the layer needs of the past,
so that the layer itself stays as it was trained.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from codec.network import channels_last
from codec.network.activations import Snake

__all__ = ["Chain", "PointwiseStream", "Stream", "join", "receptive_field", "rest", "stream_of"]

# Layers that treat every sample by itself.
_POINTWISE = (nn.Identity, nn.ELU, nn.ReLU, Snake)


class Stream(Protocol):
    """One layer's stream: the outputs of all pushes, joined, are the layer's output for all inputs, joined."""

    def push(self, x: Tensor, last: bool) -> Tensor:
        """The outputs that `x` completes, which may be none.

        Args:
            last: Whether the input ends here.

        Shape: x [B, C, t] with any t, 0 included -> [B, C', t'].
        """


@runtime_checkable
class _Streamable(Protocol):
    def stream(self) -> Stream: ...

    def past_inputs(self, outputs: float) -> float: ...


def stream_of(layer: nn.Module) -> Stream:
    """A new stream through `layer`.

    Raises:
        TypeError: The layer has no stream.
    """
    if isinstance(layer, _Streamable):
        return layer.stream()
    if isinstance(layer, _POINTWISE):
        return PointwiseStream(layer)
    raise TypeError(f"a {type(layer).__name__} cannot stream: it has no method stream()")


class Chain:
    """A stream through layers in order; through no layers, the input is the output."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.streams = [stream_of(layer) for layer in layers]

    def push(self, x: Tensor, last: bool) -> Tensor:
        """As in `Stream`."""
        for stream in self.streams:
            x = stream.push(x, last)
        return x


class PointwiseStream:
    """The stream of a layer without memory."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def push(self, x: Tensor, last: bool) -> Tensor:
        """As in `Stream`."""
        y: Tensor = self.layer(x)
        return y


def receptive_field(layers: Sequence[nn.Module], outputs: float = 0) -> float:
    """Number n of inputs before the newest on which the output of causal layers depends.

    With r outputs per input, input i makes no difference from output (i + n) * r - `outputs` on. Layers that start n
    inputs late therefore give the same output from there on, whatever they were padded with.

    Returns:
        n, or infinity if the layers hold an LSTM.
    """
    past = outputs
    for layer in reversed(layers):
        if isinstance(layer, _Streamable):
            past = layer.past_inputs(past)
            if math.isinf(past):
                break
    return past


def join(held: Tensor | None, x: Tensor) -> Tensor:
    """Held samples and the new ones. Shape: [B, C, t], [B, C, u] -> [B, C, t + u]."""
    return x if held is None else channels_last.cat([held, x])


def rest(x: Tensor, begin: int) -> Tensor | None:
    """A copy of the samples from `begin` on, or None if there are none. A view would keep all of `x` in memory.

    Shape: [B, C, t] -> [B, C, t - begin].
    """
    return x[..., begin:].clone() if begin < x.shape[-1] else None
