"""Causal codecs encode and decode piece by piece, with the result of doing it in one.

Every layer of the network gets a small object beside it that holds what the layer needs of the past, so that the
network itself stays as it is trained. Codecs that cannot stream are coded segment by segment (`codec.segmenting`).
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.config import CodecConfig
from codec.conv import Conv1d, ConvTranspose1d, pad
from codec.model import Codec
from codec.seanet import ResidualLSTM, ResidualUnit

__all__ = ["StreamingDecoder", "StreamingEncoder", "can_stream"]


def can_stream(config: CodecConfig) -> bool:
    """Whether no frame depends on later audio: causal, in one piece, and without the RMS of the whole."""
    return config.causal and config.segment_seconds is None and not config.normalize


class StreamingEncoder:
    """Encodes a causal codec's audio as it arrives.

    The codes of all pushes and the flush, joined, are those of `Codec.encode`. With constant padding a frame comes
    out with the last of its `hop_samples`; with reflection the first frames wait until there is enough to reflect.
    The weights are taken when the stream is made. Convolutions over another length may differ in the last bit of a
    float, so a latent exactly between two codes could go either way.

    Args:
        codec: In eval mode; it is not changed, and can serve any number of streams.
        bandwidth_kbps: As in `Codec.encode`.

    Raises:
        ValueError: The codec cannot stream, or the bandwidth is out of reach.
    """

    def __init__(self, codec: Codec, bandwidth_kbps: float | None = None) -> None:
        _check_streamable(codec.config)
        config = codec.config
        self.codec = codec
        self.codebooks = config.codebooks if bandwidth_kbps is None else config.codebooks_for(bandwidth_kbps)
        self._network = _Chain(codec.encoder.layers)
        self._feed = _Feed(config.channels, next(codec.parameters()))

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """Codes of the frames that `audio` completes, which may be none.

        Shape: audio [B, C, t] with any t -> codes [B, K, f] int64.

        Raises:
            ValueError: The shape does not fit the codec or the pushes before it, or the stream is flushed.
        """
        return self._quantize(self._network.push(self._feed.check(audio), last=False))

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Codes of the frames that were still waiting for audio; the stream ends here.

        Shape: -> codes [B, K, f] int64.
        """
        return self._quantize(self._network.push(self._feed.end(), last=True))

    def _quantize(self, latent: Tensor) -> Tensor:
        if latent.shape[-1] == 0:
            return latent.new_zeros(latent.shape[0], self.codebooks, 0, dtype=torch.int64)
        return self.codec.quantizer.encode(latent, self.codebooks)


class StreamingDecoder:
    """Decodes a causal codec's frames as they arrive.

    The audio of all pushes and the flush, joined, is that of `Codec.decode`, F * hop samples long, to the rounding
    of float32.

    Args:
        codec: As in `StreamingEncoder`.

    Raises:
        ValueError: The codec cannot stream.
    """

    def __init__(self, codec: Codec) -> None:
        _check_streamable(codec.config)
        self.codec = codec
        self._network = _Chain(codec.decoder.layers)
        self._feed = _Feed(codec.config.latent_dim, next(codec.parameters()))

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Audio of the given frames, less what the first layers still hold back.

        Shape: codes [B, K, f] -> audio [B, C, t].

        Raises:
            ValueError: The shape does not fit the pushes before it, or the stream is flushed.
        """
        return self._network.push(self._feed.check(self.codec.quantizer.decode(codes)), last=False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The audio still held back; the stream ends here.

        Shape: -> audio [B, C, t].
        """
        return self._network.push(self._feed.end(), last=True)


class _Feed:
    """Checks what is pushed into a stream and supplies the empty input that ends it."""

    def __init__(self, channels: int, like: Tensor) -> None:
        self.empty = like.detach().new_zeros(1, channels, 0)
        self.started = self.ended = False

    def check(self, x: Tensor) -> Tensor:
        batch, channels, _ = self.empty.shape
        if self.ended:
            raise ValueError("this stream was flushed: make a new one")
        if x.dim() != 3 or x.shape[1] != channels or (self.started and x.shape[0] != batch):
            wanted = f"[{batch if self.started else 'B'}, {channels}, t]"
            raise ValueError(f"expected {wanted} in this stream, got {list(x.shape)}")
        self.empty, self.started = x[..., :0].clone(), True
        return x

    def end(self) -> Tensor:
        self.check(self.empty)
        self.ended = True
        return self.empty


class _Stream(Protocol):
    """A layer with a memory: outputs of all pushes, joined, are the layer's output for all inputs, joined.

    Inputs and outputs are [B, C, t] with any t, 0 included; `last` marks the end of the input.
    """

    def push(self, x: Tensor, last: bool) -> Tensor: ...


def _stream(layer: nn.Module) -> _Stream:
    match layer:
        case Conv1d():
            return _ConvStream(layer)
        case ConvTranspose1d():
            return _ConvTransposeStream(layer)
        case ResidualUnit():
            return _ResidualStream(layer)
        case ResidualLSTM():
            return _LSTMStream(layer)
        case nn.ELU() | nn.Identity():
            return _PointwiseStream(layer)
    raise TypeError(f"no stream for a {type(layer).__name__}")


class _Chain:
    def __init__(self, layers: nn.Sequential) -> None:
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
        self.dilation = conv.dilation
        self.window = layer.overlap + layer.stride
        self.held: Tensor | None = None
        self.padded = False

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self.layer
        held = x if self.held is None else torch.cat([self.held, x], -1)
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
        self.held = held[..., frames * layer.stride :].clone()
        if frames == 0:
            return self._empty(x)
        ready = held[..., : (frames - 1) * layer.stride + self.window]
        return F.conv1d(ready, self.weight, self.bias, layer.stride, 0, self.dilation)

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
        y = F.conv_transpose1d(x, self.weight, None, self.layer.stride)
        if self.overhang is not None:
            y[..., : self.layer.overhang] += self.overhang
        ready = x.shape[-1] * self.layer.stride
        self.overhang = y[..., ready:].clone()
        return y[..., :ready] + self.bias[:, None]  # once, after the windows are summed


class _ResidualStream:
    """Holds the skip connection back for as long as the convolutions beside it wait for their padding."""

    def __init__(self, layer: ResidualUnit) -> None:
        self.block = _Chain(layer.block)
        self.shortcut = _stream(layer.shortcut)
        self.held: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        y = self.block.push(x, last)
        skip = self.shortcut.push(x, last)
        if self.held is not None:
            skip = torch.cat([self.held, skip], -1)
        ready = y.shape[-1]
        self.held = skip[..., ready:].clone()
        return skip[..., :ready] + y


class _LSTMStream:
    """Carries the hidden and the cell state."""

    def __init__(self, layer: ResidualLSTM) -> None:
        self.lstm = layer.lstm
        self.state: tuple[Tensor, Tensor] | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        if x.shape[-1] == 0:
            return x
        frames = x.permute(2, 0, 1)
        y, self.state = self.lstm(frames, self.state)
        return (y + frames).permute(1, 2, 0)


def _check_streamable(config: CodecConfig) -> None:
    if not config.causal:
        raise ValueError("only a causal codec streams: in this one every frame needs audio that comes after it")
    if config.segment_seconds is not None:
        raise ValueError(f"this codec does not stream: it codes segments of {config.segment_seconds} s on their own")
    if config.normalize:
        raise ValueError("this codec does not stream: it divides by the RMS of the whole signal")
