"""What each layer of a causal network must remember, so that it can be fed piece by piece."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.network import channels_last, few_rows
from codec.network.conv import Conv1d, ConvTranspose1d, pad
from codec.network.cpu import made_by_amd
from codec.network.seanet import ResidualLSTM, ResidualUnit

__all__ = ["Chain", "Stream", "past_inputs"]

# On a CPU the library's kernels rearrange all weights at every call, which costs more than a few frames do. Up to so
# many frames, of all signals together, matrix products take the weights as they are.
_FEW_FRAMES = 16
# Of an LSTM, which takes them one after the other: up to so many, products for each cost less than rearranging once.
_FEW_LSTM_FRAMES_ON_AMD = 48
_FEW_LSTM_FRAMES = 12  # elsewhere, on one core; several rearrange in less time


class Stream(Protocol):
    """A layer with a memory: outputs of all pushes, joined, are the layer's output for all inputs, joined.

    Inputs and outputs are [B, C, t] with any t, 0 included; `last` marks the end of the input.
    """

    def push(self, x: Tensor, last: bool) -> Tensor: ...


def _stream(layer: nn.Module) -> Stream:
    match layer:
        case Conv1d():
            return _ConvStream(layer)
        case ConvTranspose1d():
            return _ConvTransposeStream(layer)
        case ResidualUnit():
            return _ResidualStream(layer)
        case ResidualLSTM():
            return _LSTMStream(layer)
        case nn.CELU() | nn.Identity():
            return _PointwiseStream(layer)
    raise TypeError(f"no stream for a {type(layer).__name__}")


class Chain:
    """A stream through layers one after the other; through none, what goes in comes out."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.streams = [_stream(layer) for layer in layers]

    def push(self, x: Tensor, last: bool) -> Tensor:
        for stream in self.streams:
            x = stream.push(x, last)
        return x


class _PointwiseStream:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def push(self, x: Tensor, last: bool) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class _ConvStream:
    """Keeps the input from the start of the next window on: `overlap` padded samples and less than a stride more.

    At the end of the input the last window is filled up as `Conv1d.forward` does. A reflection there reaches back
    fewer samples than a stride; as no window of the network is shorter than two strides, they are still held.
    """

    def __init__(self, layer: Conv1d) -> None:
        self.layer = layer
        conv = layer.conv
        # Taken once: under weight norm every access recomputes it.
        self.weight, self.bias = conv.weight.detach(), conv.bias
        self.dilation = conv.dilation[0]
        self.window = layer.overlap + layer.stride
        self.held: Tensor | None = None
        self.padded = False

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self.layer
        held = _joined(self.held, x)
        left = 0 if self.padded else layer.left_padding
        samples = held.shape[-1] - (layer.left_padding - left)  # up to a multiple of the stride, all there were
        too_short = layer.padding == "reflect" and samples <= left
        if not self.padded and (samples == 0 or (too_short and not last)):
            self.held = held
            return self._empty(x)
        right = -samples % layer.stride if last else 0
        if left or right:
            held = pad(held, left, right, layer.padding)
        self.padded = True
        frames = max(0, (held.shape[-1] - layer.overlap) // layer.stride)
        self.held = _rest(held, frames * layer.stride)
        if frames == 0:
            return self._empty(x)
        ready = held[..., : (frames - 1) * layer.stride + self.window]
        if not _few(ready, frames * len(ready)):
            return channels_last.conv1d(ready, self.weight, self.bias, layer.stride, self.dilation)
        windows = ready.unfold(-1, self.window, layer.stride)[..., :: self.dilation].transpose(1, 2)
        return few_rows.linear(windows.flatten(2), self.weight.flatten(1), self.bias).transpose(1, 2)

    def _empty(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], len(self.weight), 0)


class _ConvTransposeStream:
    """Keeps the overhang of the last window, to which the next one is added; at the end it is the part trimmed."""

    def __init__(self, layer: ConvTranspose1d) -> None:
        self.layer = layer
        self.weight: Tensor = layer.conv.weight.detach()
        self.bias = cast(Tensor, layer.conv.bias)
        self.overhang: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], len(self.bias), 0)
        y = self._windows(x)
        if self.overhang is not None:
            y[..., : self.layer.overhang] += self.overhang
        ready = x.shape[-1] * self.layer.stride
        self.overhang = y[..., ready:].clone()
        return y[..., :ready] + self.bias[:, None]  # once, after the windows are summed

    def _windows(self, x: Tensor) -> Tensor:
        """Shape: x [B, C, F] -> [B, C', (F - 1) * stride + kernel_size]."""
        stride, kernel = self.layer.stride, self.weight.shape[2]
        if not _few(x, x.shape[0] * x.shape[2]):
            return channels_last.conv_transpose1d(x, self.weight, None, stride)
        windows = (x.transpose(1, 2) @ self.weight.flatten(1)).transpose(1, 2)
        length = (x.shape[2] - 1) * stride + kernel
        return F.fold(windows, (1, length), (1, kernel), stride=(1, stride)).squeeze(2)


class _ResidualStream:
    """Holds the skip connection back for as long as the convolutions beside it wait for their padding."""

    def __init__(self, layer: ResidualUnit) -> None:
        self.block = Chain(layer.block)
        self.shortcut = _stream(layer.shortcut)
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        y = self.block.push(x, last)
        skip = self.shortcut.push(x, last)
        skip = _joined(self.held, skip)
        ready = y.shape[-1]
        self.held = _rest(skip, ready)
        y += skip[..., :ready]
        return y


class _LSTMStream:
    """Carries the hidden and the cell state, [layers, B, width] each."""

    def __init__(self, layer: ResidualLSTM) -> None:
        self.lstm = layer.lstm
        self.state: tuple[Tensor, Tensor] | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        if x.shape[-1] == 0:
            return x
        frames = x.permute(2, 0, 1)
        if self.state is None:
            hidden, cell = x.new_zeros(2, self.lstm.num_layers, x.shape[0], self.lstm.hidden_size)
            self.state = hidden, cell
        if _few(x, len(frames), _few_lstm_frames()):
            y, self.state = _step_by_step(self.lstm, frames, *self.state)
        else:
            y, self.state = self.lstm(frames, self.state)
        return (y + frames).permute(1, 2, 0)


def _step_by_step(lstm: nn.LSTM, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What `lstm` returns, layer by layer.

    Shape: x [F, B, width], states [layers, B, width] -> [F, B, width], two states.
    """
    ends = []
    for h, c, (of_input, of_hidden, bias, more_bias) in zip(hidden, cell, lstm.all_weights, strict=True):
        outputs = []
        for gates in few_rows.linear(x, of_input, bias + more_bias):
            i, f, g, o = (gates + few_rows.linear(h, of_hidden)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        x = torch.stack(outputs)
        ends.append((h, c))
    hidden, cell = (torch.stack(states) for states in zip(*ends, strict=True))
    return x, (hidden, cell)


def _joined(held: Tensor | None, x: Tensor) -> Tensor:
    return x if held is None else channels_last.cat([held, x])


def _rest(x: Tensor, begin: int) -> Tensor | None:
    """The samples from `begin` on, if there are any: a copy, as a view would keep those before them as well."""
    return x[..., begin:].clone() if begin < x.shape[-1] else None


def _few_lstm_frames() -> int:
    return _FEW_LSTM_FRAMES_ON_AMD if made_by_amd() else max(2, _FEW_LSTM_FRAMES // torch.get_num_threads())


def _few(x: Tensor, frames: int, limit: int = _FEW_FRAMES) -> bool:
    return x.device.type == "cpu" and frames <= limit


def past_inputs(layers: Sequence[nn.Module], outputs: float = 0) -> float:
    """How far back the output of causal layers reaches: input i makes no difference from output (i + n) * r - `outputs`
    on, if n is the number returned and r outputs come of one input. Infinite with an LSTM.

    Begun n inputs late, the layers give the same output from there on, whatever they were padded with.
    """
    past = outputs
    for layer in reversed(layers):
        match layer:
            case Conv1d():
                past = past * layer.stride + layer.overlap
            case ConvTranspose1d():
                # Output m is the sum of the windows that begin at m or up to kernel - 1 before.
                past = math.ceil(past / layer.stride) + math.ceil(layer.overhang / layer.stride)
            case ResidualUnit():
                past = max(past_inputs([*layer.block], past), past_inputs([layer.shortcut], past))
            case ResidualLSTM():
                return math.inf
    return past
