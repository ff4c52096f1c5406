"""The layers of encoder and decoder as ONNX operators.

The exporter of torch is not used. That of torch 2.14 fails at an LSTM over a variable number of frames, fixes the
branches of Python code (such as the reflection of short inputs), and has no states. Here every layer has an ONNX form
for whole signals and one for steps of a stream (`codec.network.stream`).

Zero padding is done by `Conv`. A window of stride s reaches fewer than s samples past the end. With s - 1 more zeros on
the right than `Conv1d` adds, T samples therefore give exactly ceil(T / s) frames with the same values.
"""

from math import ceil

import torch
from torch import Tensor, nn

from codec.interop.onnx.dac_layers import write_padded_conv, write_snake, write_whole_frames
from codec.interop.onnx.graph import Graph
from codec.interop.onnx.istft_layers import FrameLayer, write_frame_layer
from codec.network.activations import Snake
from codec.network.conv import Conv1d, ConvTranspose1d
from codec.network.dac import DACResidualUnit, WholeFrames
from codec.network.frame_layers import ConvNeXtBlock, FrameInput
from codec.network.istft_layers import ISTFTOutput, LatentOutput, SpectralInput
from codec.network.seanet import ResidualLSTM, ResidualUnit

__all__ = ["NetworkWriter", "has_steps"]


def has_steps(layers: nn.Module) -> bool:
    """Whether every layer has a form for steps of a stream. Those that look ahead have none."""
    return not any(isinstance(layer, FrameLayer) for layer in layers.modules())


class NetworkWriter:
    """Writes layers into a graph.

    In a step of a stream a state is an input `NAME` and an output `NAME_next` of the same shape [B, ...]. It is zero in
    a new stream. With zero padding the context of a convolution is first the padding, then the earlier samples. With
    reflection padding a state `started` [B, 1, 1], zero before the first step, selects either the context or the
    reflection of the first samples of the step.

    A step holds a whole number of frames. The last step may have any length; it is padded like the end of a signal.

    Attributes:
        states: Name and shape of every state, in the order of inputs and outputs.
        first_step_frames: Fewest frames of a first step that is not the last step: reflection needs that many.

    Args:
        graph: The graph to write to.
        samples_per_frame: Samples per frame at the input of the first layer.
        streaming: Write a step of a stream rather than a whole signal.
    """

    def __init__(self, graph: Graph, samples_per_frame: int, streaming: bool) -> None:
        self.graph = graph
        self.streaming = streaming
        self.states: dict[str, list[int | str]] = {}
        self._next: dict[str, str] = {}
        self.first_step_frames = 1
        self._samples_per_frame = samples_per_frame
        self._started: str | None = None

    def layer(self, layer: nn.Module, x: str, name: str) -> str:
        """Shape: [B, C, T] -> that of the layer.

        Raises:
            ValueError: The layer has no ONNX form.
        """
        match layer:
            case DACResidualUnit():
                return self.graph.node("Add", x, self.layer(nn.Sequential(*layer), x, name))
            case nn.Sequential():
                for i, part in enumerate(layer):
                    x = self.layer(part, x, f"{name}_{i}")
                return x
            case Conv1d():
                return self._conv(layer, x, name)
            case ConvTranspose1d():
                return self._step_transposed(layer, x, name) if self.streaming else self._transposed(layer, x, name)
            case ResidualUnit():
                y = self.layer(layer.block, x, f"{name}_block")
                return self.graph.node("Add", self.layer(layer.shortcut, x, f"{name}_shortcut"), y)
            case ResidualLSTM():
                return self._lstm(layer.lstm, x, name)
            case SpectralInput() | FrameInput() | ConvNeXtBlock() | LatentOutput() | ISTFTOutput() if (
                not self.streaming
            ):
                return write_frame_layer(self.graph, layer, x, name)
            case nn.GroupNorm(num_groups=1):
                return self._group_norm(layer, x, name)
            case nn.ELU(alpha=1):
                return self.graph.node("Elu", x)
            case nn.ReLU():
                return self.graph.node("Relu", x)
            case Snake():
                return write_snake(self.graph, layer, x, name)
            case WholeFrames():
                return write_whole_frames(self.graph, layer, x)
            case nn.Conv1d() | nn.ConvTranspose1d() if not self.streaming:
                return write_padded_conv(self.graph, layer, x, name)
            case nn.Tanh():
                return self.graph.node("Tanh", x)
            case nn.Identity():
                return x
        raise ValueError(f"a {type(layer).__name__} has no ONNX form here ({name})")

    def end_step(self) -> None:
        """Adds the new states as outputs, in the order of the inputs."""
        for name, shape in self.states.items():
            self.graph.output(f"{name}_next", self._next[name], shape)

    def _state(self, name: str, *shape: int) -> str:
        self.states[name] = ["batch", *shape]
        return self.graph.input(name, self.states[name])

    def _keep(self, name: str, value: str) -> None:
        self._next[name] = value

    def _has_started(self) -> str:
        """Shape: -> [B, 1, 1] bool."""
        if self._started is None:
            state = self._state("started", 1, 1)
            self._keep("started", self.graph.node("Max", state, self.graph.number(1.0)))
            self._started = self.graph.node("Greater", state, self.graph.number(0.0))
        return self._started

    def _conv(self, layer: Conv1d, x: str, name: str) -> str:
        reflect = layer.padding == "reflect"
        pads = [0, 0] if reflect else [layer.left_padding, layer.right_padding + layer.stride - 1]
        if self.streaming and layer.left_padding:
            x = self._with_context(layer, x, name)
            pads[0] = 0
        elif reflect and layer.overlap:
            x = self._reflected(layer, x)
        self._samples_per_frame //= layer.stride
        conv = layer.conv
        y = self.graph.node(
            "Conv", x, *self._weights(conv, name), strides=[layer.stride], dilations=list(conv.dilation), pads=pads
        )
        return self.layer(layer.norm, y, f"{name}_norm")

    def _weights(self, conv: nn.Module, name: str) -> list[str]:
        # With weight norm, reading the weight computes it.
        return [self.graph.weight(f"{name}_{kind}", getattr(conv, kind)) for kind in ("weight", "bias")]

    def _with_context(self, layer: Conv1d, x: str, name: str) -> str:
        graph, context = self.graph, f"{name}_context"
        left = self._state(context, layer.conv.in_channels, layer.left_padding)
        if layer.padding == "reflect":
            self.first_step_frames = max(
                self.first_step_frames, ceil((layer.left_padding + 1) / self._samples_per_frame)
            )
            left = graph.node("Where", self._has_started(), left, self._reflected_start(layer, x))
        held = graph.node("Concat", left, x, axis=2)
        self._keep(context, graph.slice(held, 2, -layer.left_padding))
        if layer.padding == "constant" or layer.stride == 1:
            return held
        # After the first step, a reflection at the end may reach back into the context.
        missing, before = self._missing(layer, x), graph.node("Sub", _scalar_length(graph, held), graph.integer(2))
        backwards = graph.node("Sub", before, self._range(missing))
        right = graph.node(
            "Where", self._has_started(), self._take(held, backwards), self._reflected_end(layer, x, missing)
        )
        return graph.node("Concat", held, right, axis=2)

    def _reflected(self, layer: Conv1d, x: str) -> str:
        parts = [self._reflected_start(layer, x)] if layer.left_padding else []
        parts.append(x)
        if layer.right_padding or layer.stride > 1:
            right = self.graph.node("Add", self._missing(layer, x), self.graph.integer(layer.right_padding))
            parts.append(self._reflected_end(layer, x, right))
        return self.graph.node("Concat", *parts, axis=2)

    def _reflected_start(self, layer: Conv1d, x: str) -> str:
        return self._take(x, self.graph.integers(*range(layer.left_padding, 0, -1)))

    def _reflected_end(self, layer: Conv1d, x: str, right: str) -> str:
        """As `codec.network.conv.pad`: short signals are first filled with zeros."""
        graph = self.graph
        samples = _scalar_length(graph, x)
        longest = graph.node("Max", right, graph.integer(layer.left_padding))
        last = graph.node("Max", graph.node("Sub", samples, graph.integer(1)), longest)
        beyond = graph.node("Sub", graph.node("Add", samples, self._range(right)), last)
        return self._take(x, graph.node("Sub", last, graph.node("Abs", beyond)))

    def _missing(self, layer: Conv1d, x: str) -> str:
        """Samples by which the last window is incomplete. Shape: -> [] int64."""
        graph = self.graph
        return graph.node("Mod", graph.node("Neg", _scalar_length(graph, x)), graph.integer(layer.stride))

    def _range(self, count: str) -> str:
        return self.graph.node("Range", self.graph.integer(0), count, self.graph.integer(1))

    def _take(self, x: str, index: str) -> str:
        """Samples at these indices, zeros past the end. Shape: x [B, C, T], index [n] -> [B, C, n]."""
        graph = self.graph
        samples = _scalar_length(graph, x)
        inside = graph.node("Min", index, graph.node("Sub", samples, graph.integer(1)))
        taken = graph.node("Gather", x, inside, axis=2)
        return graph.node("Where", graph.node("Less", index, samples), taken, graph.number(0.0))

    def _transposed(self, layer: ConvTranspose1d, x: str, name: str) -> str:
        weights, strides = self._weights(layer.conv, name), [layer.stride]
        trim = [layer.left_trim, layer.right_trim]
        if isinstance(layer.norm, nn.Identity):
            return self.graph.node("ConvTranspose", x, *weights, strides=strides, pads=trim)
        # The norm includes the trimmed samples.
        y = self.layer(layer.norm, self.graph.node("ConvTranspose", x, *weights, strides=strides), f"{name}_norm")
        return self.graph.slice(y, 2, layer.left_trim, -layer.right_trim or None)

    def _step_transposed(self, layer: ConvTranspose1d, x: str, name: str) -> str:
        """The overhang of the last window is a state. The bias is added once, after the windows are summed."""
        graph, overhang = self.graph, f"{name}_overhang"
        self._samples_per_frame *= layer.stride
        weight, bias = self._weights(layer.conv, name)
        before = self._state(overhang, layer.conv.out_channels, layer.overhang)
        ready = graph.node("Mul", graph.length(x, 2), graph.integers(layer.stride))
        pads = graph.node("Concat", graph.integers(0, 0, 0, 0, 0), ready, axis=0)
        y = graph.node("ConvTranspose", x, weight, strides=[layer.stride])
        y = graph.node("Add", y, graph.node("Pad", before, pads))
        self._keep(overhang, graph.slice(y, 2, -layer.overhang))
        bias = graph.node("Unsqueeze", bias, graph.integers(1))
        return graph.node("Add", graph.slice(y, 2, 0, -layer.overhang), bias)

    def _lstm(self, lstm: nn.LSTM, x: str, name: str) -> str:
        graph = self.graph
        frames = y = graph.node("Transpose", x, perm=[2, 0, 1])
        for i in range(lstm.num_layers):
            names = [f"{name}_{i}_{kind}" for kind in ("hidden", "cell")] if self.streaming else []
            states = [self._state(state, lstm.hidden_size) for state in names]
            given = [graph.node("Unsqueeze", state, graph.integers(0)) for state in states]
            lengths = [""] if given else []  # no sequence lengths: all sequences have full length
            weights = _lstm_weights(graph, lstm, i, f"{name}_{i}")
            y, *after = graph.nodes("LSTM", 1 + len(names), y, *weights, *lengths, *given, hidden_size=lstm.hidden_size)
            for state, value in zip(names, after, strict=True):
                self._keep(state, graph.node("Squeeze", value, graph.integers(0)))
            y = graph.node("Squeeze", y, graph.integers(1))
        return graph.node("Transpose", graph.node("Add", y, frames), perm=[1, 2, 0])

    def _group_norm(self, norm: nn.GroupNorm, x: str, name: str) -> str:
        graph = self.graph
        centred = graph.node("Sub", x, self._mean(x))
        variance = self._mean(graph.node("Mul", centred, centred))
        deviation = graph.node("Sqrt", graph.node("Add", variance, graph.number(norm.eps)))
        weight, bias = (graph.node("Unsqueeze", value, graph.integers(1)) for value in self._weights(norm, name))
        return graph.node("Add", graph.node("Mul", graph.node("Div", centred, deviation), weight), bias)

    def _mean(self, x: str) -> str:
        """Shape: [B, C, T] -> [B, 1, 1].

        First over time, then over channels. Runtimes add in float32: a single mean over a million samples, as in
        LayerNormalization, has ten times the error of torch.
        """
        over_time = self.graph.node("ReduceMean", x, self.graph.integers(2))
        return self.graph.node("ReduceMean", over_time, self.graph.integers(1))


def _scalar_length(graph: Graph, x: str) -> str:
    """Shape: x [B, C, T] -> [] int64."""
    return graph.node("Squeeze", graph.length(x, 2))


def _lstm_weights(graph: Graph, lstm: nn.LSTM, layer: int, name: str) -> list[str]:
    """W, R and B of an ONNX LSTM, whose gate order is input, output, forget, cell."""

    def gates(kind: str) -> Tensor:
        i, f, g, o = getattr(lstm, f"{kind}_l{layer}").detach().chunk(4)  # torch's order
        return torch.cat([i, o, f, g])

    bias = torch.cat([gates("bias_ih"), gates("bias_hh")])
    return [
        graph.weight(f"{name}_{kind}", tensor[None])  # [1]: one direction
        for kind, tensor in (
            ("input_weight", gates("weight_ih")),
            ("hidden_weight", gates("weight_hh")),
            ("bias", bias),
        )
    ]
