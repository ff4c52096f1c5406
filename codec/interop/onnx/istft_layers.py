"""The layers of `codec.network.frame_layers` and `codec.network.istft_layers` as ONNX operators, for whole signals.

Operators for short-time transforms are missing in many runtimes. So the transforms are convolutions whose weights are
windowed cosines and sines. The layers look ahead, so a step of a stream would return frames of earlier steps: there is
no form for steps.
"""

import math

import torch
from torch import Tensor, nn

from codec.interop.onnx.graph import Graph
from codec.network.frame_layers import COMPRESSION, LEAST_POWER, ConvNeXtBlock, FrameConv, FrameInput
from codec.network.istft_layers import LOUDEST, QUIET, ISTFTOutput, LatentOutput, SpectralInput

__all__ = ["FrameLayer", "write_frame_layer"]

FrameLayer = SpectralInput | FrameInput | ConvNeXtBlock | LatentOutput | ISTFTOutput


def write_frame_layer(graph: Graph, layer: FrameLayer, x: str, name: str) -> str:
    """Shape: that of the layer."""
    match layer:
        case SpectralInput():
            return _spectral_input(graph, layer, x, name)
        case FrameInput():
            return _frame_input(graph, layer, x, name)
        case ConvNeXtBlock():
            return graph.node("Add", x, _residual(graph, layer, x, name))
        case LatentOutput():
            return _linear(graph, layer.linear, x, name)
        case ISTFTOutput():
            return _istft_output(graph, layer, x, name)


def _conv(graph: Graph, layer: FrameConv, x: str, name: str) -> str:
    weights = [graph.weight(f"{name}_{kind}", getattr(layer.conv, kind)) for kind in ("weight", "bias")]
    return graph.node("Conv", x, *weights, group=layer.conv.groups, pads=[layer.left_padding, layer.right_padding])


def _linear(graph: Graph, linear: nn.Linear, x: str, name: str) -> str:
    """The layer over the channels. Shape: x [B, C, F] -> [B, C', F]."""
    y = graph.node("MatMul", graph.weight(f"{name}_linear_weight", linear.weight), x)
    return graph.node("Add", y, graph.weight(f"{name}_linear_bias", linear.bias[:, None]))


def _norm(graph: Graph, norm: nn.LayerNorm, x: str, name: str) -> str:
    """Shape: x [B, C, F] -> [B, C, F]."""
    axis = graph.integers(1)
    centred = graph.node("Sub", x, graph.node("ReduceMean", x, axis))
    variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), axis)
    deviation = graph.node("Sqrt", graph.node("Add", variance, graph.number(norm.eps)))
    y = graph.node("Mul", graph.node("Div", centred, deviation), graph.weight(f"{name}_weight", norm.weight[:, None]))
    return graph.node("Add", y, graph.weight(f"{name}_bias", norm.bias[:, None]))


def _residual(graph: Graph, layer: ConvNeXtBlock, x: str, name: str) -> str:
    x = _norm(graph, layer.norm, _conv(graph, layer.depthwise, x, f"{name}_depthwise"), f"{name}_norm")
    hidden = _linear(graph, layer.expand, x, f"{name}_expand")
    # GELU is an operator only in opsets that are newer than this one.
    erf = graph.node("Erf", graph.node("Mul", hidden, graph.number(math.sqrt(0.5))))
    half = graph.node("Mul", hidden, graph.number(0.5))
    hidden = graph.node("Mul", half, graph.node("Add", erf, graph.number(1.0)))
    y = _linear(graph, layer.contract, hidden, f"{name}_contract")
    return graph.node("Mul", y, graph.weight(f"{name}_gain", layer.gain[:, None]))


def _frame_input(graph: Graph, layer: FrameInput, x: str, name: str) -> str:
    if layer.noise_channels:
        raise ValueError("a decoder with noise has no ONNX form: decoder_noise_channels must be 0")
    power = graph.node("ReduceSum", graph.node("Mul", x, x), graph.integers(1))
    power = graph.node("Add", power, graph.number(LEAST_POWER))
    factor = graph.node("Pow", power, graph.number((COMPRESSION - 1) / 2))
    level = graph.node("Mul", graph.node("Log", power), graph.number(0.5))
    return _conv(graph, layer.conv, graph.node("Concat", graph.node("Mul", x, factor), level, axis=1), f"{name}_conv")


def _spectral_input(graph: Graph, layer: SpectralInput, x: str, name: str) -> str:
    hop, channels, window = layer.hop_samples, layer.wave.in_channels, layer.window.double().cpu()
    # Zeros for a last frame that is incomplete: as in `NetworkWriter`.
    pads = [hop // 2, hop // 2 + hop - 1]
    weights = [graph.weight(f"{name}_wave_{kind}", getattr(layer.wave, kind)) for kind in ("weight", "bias")]
    waves = graph.node("Conv", x, *weights, strides=[hop], pads=pads)
    pads = [layer.padding, layer.padding + hop - 1]
    squares = []
    for kind, wave in zip(("real", "imaginary"), _waves(len(window)), strict=True):
        kernel = graph.weight(f"{name}_{kind}", (wave * window).float()[:, None].repeat(channels, 1, 1))
        part = graph.node("Conv", x, kernel, strides=[hop], pads=pads, group=channels)
        squares.append(graph.node("Mul", part, part))
    power = graph.node("Add", graph.node("Add", *squares), graph.number(QUIET**2))
    logarithm = graph.node("Mul", graph.node("Log", power), graph.number(0.25))
    loudness = graph.node("Add", logarithm, graph.number(1.75))
    return graph.node("Concat", waves, _linear(graph, layer.linear, loudness, name), axis=1)


def _istft_output(graph: Graph, layer: ISTFTOutput, x: str, name: str) -> str:
    window, hop, channels = layer.window.double().cpu(), layer.hop_samples, layer.channels
    bins = len(window) // 2 + 1
    y = _linear(graph, layer.linear, _norm(graph, layer.norm, x, f"{name}_norm"), name)
    rows = torch.arange(channels * 3 * bins).view(channels, 3, bins)
    gain, *parts = (
        graph.node("Gather", y, graph.integers(*rows[:, kind].flatten().tolist()), axis=1) for kind in range(3)
    )
    gain = graph.node("Exp", graph.node("Min", gain, graph.number(LOUDEST)))
    # A real signal has every bin twice, but for the first and the last.
    cosine, sine = _waves(len(window))
    twice = torch.full((bins, 1), 2.0, dtype=torch.float64)
    twice[[0, -1]] = 1.0
    pads = [layer.overhang, layer.overhang]
    sums = []
    for kind, part, wave in zip(("real", "imaginary"), parts, (cosine, -sine), strict=True):
        frames = (twice * wave * window / len(window)).float()[:, None].repeat(channels, 1, 1)
        kernel = graph.weight(f"{name}_{kind}", frames)
        spectrum = graph.node("Mul", gain, part)
        sums.append(graph.node("ConvTranspose", spectrum, kernel, strides=[hop], pads=pads, group=channels))
    zeros = graph.node("Mul", graph.slice(x, 1, 0, 1), graph.number(0.0))
    squares = graph.weight(f"{name}_squares", window.square().float()[None, None])
    ones = graph.node("Add", zeros, graph.number(1.0))
    weights = graph.node("ConvTranspose", ones, squares, strides=[hop], pads=pads)
    return graph.node("Div", graph.node("Add", *sums), weights)


def _waves(samples: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all bins of a transform. Shape: -> [bins, samples], twice, float64."""
    turns = torch.arange(samples // 2 + 1)[:, None] * torch.arange(samples) % samples
    angles = turns.double() * (2 * math.pi / samples)
    return angles.cos(), angles.sin()
