"""The layers of DAC as ONNX operators, for whole signals."""

from torch import nn

from codec.interop.onnx.graph import Graph
from codec.network.activations import Snake
from codec.network.dac import WholeFrames

__all__ = ["write_padded_conv", "write_snake", "write_whole_frames"]


def write_snake(graph: Graph, layer: Snake, x: str, name: str) -> str:
    """Shape: [B, width, T] -> [B, width, T]."""
    alpha = graph.weight(f"{name}_alpha", layer.alpha)
    wave = graph.node("Sin", graph.node("Mul", alpha, x))
    inverse = graph.weight(f"{name}_inverse", 1 / (layer.alpha + 1e-9))
    return graph.node("Add", x, graph.node("Mul", graph.node("Mul", wave, wave), inverse))


def write_padded_conv(graph: Graph, layer: nn.Conv1d | nn.ConvTranspose1d, x: str, name: str) -> str:
    """Shape: that of the layer."""
    weights = [graph.weight(f"{name}_{kind}", getattr(layer, kind)) for kind in ("weight", "bias")]
    assert isinstance(layer.padding, tuple)
    settings = {"strides": list(layer.stride), "dilations": list(layer.dilation), "pads": [*layer.padding * 2]}
    if isinstance(layer, nn.ConvTranspose1d):
        return graph.node("ConvTranspose", x, *weights, output_padding=list(layer.output_padding), **settings)
    return graph.node("Conv", x, *weights, **settings)


def write_whole_frames(graph: Graph, layer: WholeFrames, x: str) -> str:
    """Shape: [B, C, T] -> [B, C, ceil(T / hop) * hop]."""
    missing = graph.node("Mod", graph.node("Neg", graph.length(x, 2)), graph.integer(layer.hop_samples))
    return graph.node("Pad", x, graph.node("Concat", graph.integers(0, 0, 0, 0, 0), missing, axis=0))
