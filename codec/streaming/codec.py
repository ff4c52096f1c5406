"""Streams of a causal codec.

They are made from the streams of its layers (`codec.network.stream`), so the codec itself is not changed. A codec that
cannot stream is coded segment by segment (`codec.coding.segments`).
"""

import math
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from codec.config import CodecConfig
from codec.network.stream import Chain, receptive_field
from codec.quantization import Quantizer
from codec.quantization.ieee import without_tf32

__all__ = ["StreamableCodec", "StreamingDecoder", "StreamingEncoder"]


class StreamableCodec(Protocol):
    """What a stream needs of a `Codec` in eval mode."""

    config: CodecConfig
    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module


class StreamingEncoder:
    """Encodes audio piece by piece.

    The codes of all pushes and the flush, joined, are those of `Codec.encode`. With constant padding a frame comes out
    with the last of its `hop_samples`. With reflection padding, output starts after six frames. A network that looks
    ahead returns a frame once the later samples are there. The weights are read when the stream is made. Convolutions
    of another length may differ in the last bit of a float, so a latent exactly between two codes may get the other
    code.

    Args:
        codec: In eval mode. It can serve any number of streams.
        bandwidth_kbps: As in `Codec.encode`.

    Attributes:
        num_codebooks: Number K of codebooks in use.

    Raises:
        ValueError: The codec cannot stream, or the bandwidth is out of reach.
    """

    def __init__(self, codec: StreamableCodec, bandwidth_kbps: float | None = None) -> None:
        _check_streamable(codec.config)
        self.num_codebooks = codec.config.codebooks_for(bandwidth_kbps)
        self._search = codec.quantizer.search(self.num_codebooks)
        self._network = Chain(_layers(codec.encoder))
        self._input = _Input(codec.config.channels, next(codec.encoder.parameters()))

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """Codes of the frames that `audio` completes, which may be none.

        Shape: audio [B, C, t] with any t -> codes [B, K, f] int64.

        Raises:
            ValueError: The shape does not fit the codec or earlier pushes, or the stream was flushed.
        """
        return self._codes(self._input.check(audio), last=False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Codes of the frames that were still incomplete; the stream ends here.

        Shape: -> codes [B, K, f] int64.
        """
        return self._codes(self._input.end(), last=True)

    def _codes(self, audio: Tensor, last: bool) -> Tensor:
        with without_tf32(audio.device):
            latent = self._network.push(audio, last)
            if latent.shape[-1] == 0:
                return latent.new_zeros(latent.shape[0], self.num_codebooks, 0, dtype=torch.int64)
            return self._search(latent)


class StreamingDecoder:
    """Decodes frames piece by piece.

    The audio of all pushes and the flush, joined, is that of `Codec.decode`, F * hop samples long, up to float32
    rounding.

    Decoding can begin in the middle of a file. Either `skip` all earlier frames, or leave them out if
    `needs_all_frames` is False; then push. The output of the first `warm_up_frames` pushed frames is wrong.

    Args:
        codec: As in `StreamingEncoder`.

    Attributes:
        warm_up_frames: Receptive field of the layers after the LSTM (of all layers, if there is none), in frames.
        needs_all_frames: Whether there is an LSTM, whose state depends on every earlier frame.

    Raises:
        ValueError: The codec cannot stream.
    """

    def __init__(self, codec: StreamableCodec) -> None:
        _check_streamable(codec.config)
        self.codec = codec
        layers = _layers(codec.decoder)
        # The head ends with the last layer that depends on every earlier frame.
        head = 1 + max((i for i, layer in enumerate(layers) if math.isinf(receptive_field([layer]))), default=-1)
        self.needs_all_frames = head > 0
        self.warm_up_frames = int(receptive_field(layers[head:]))
        self._head, self._tail = Chain(layers[:head]), Chain(layers[head:])
        self._input = _Input(codec.config.latent_dim, next(codec.decoder.parameters()))
        self._to_skip = 0  # skipped frames that the head has not returned yet

    @torch.no_grad()
    def skip(self, codes: Tensor) -> None:
        """Passes over frames before the first push. Only the layers up to the LSTM are computed.

        Shape: codes [B, K, f].

        Raises:
            ValueError: As in `push`.
        """
        self._to_skip += codes.shape[-1]
        with without_tf32(codes.device):
            self._push_head(self._input.check(self.codec.quantizer.decode(codes)), last=False)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Audio of the given frames, less what the first layers still hold.

        Shape: codes [B, K, f] -> audio [B, C, t].

        Raises:
            ValueError: The shape does not fit earlier pushes, or the stream was flushed.
        """
        with without_tf32(codes.device):
            latent = self._input.check(self.codec.quantizer.decode(codes))
            return self._tail.push(self._push_head(latent, last=False), last=False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The audio that the layers still hold; the stream ends here.

        Shape: -> audio [B, C, t].
        """
        end = self._input.end()
        with without_tf32(end.device):
            return self._tail.push(self._push_head(end, last=True), last=True)

    def _push_head(self, latent: Tensor, last: bool) -> Tensor:
        latent = self._head.push(latent, last)
        skipped = min(self._to_skip, latent.shape[-1])
        self._to_skip -= skipped
        return latent[..., skipped:]


class _Input:
    """Checks what is pushed into a stream, and supplies the empty input that ends it."""

    def __init__(self, channels: int, like: Tensor) -> None:
        self.empty = like.detach().new_zeros(1, channels, 0)
        self.started = self.ended = False

    def check(self, x: Tensor) -> Tensor:
        batch, channels, _ = self.empty.shape
        if self.ended:
            raise ValueError("this stream was flushed: make a new one")
        if x.dim() != 3 or x.shape[1] != channels or (self.started and x.shape[0] != batch):
            expected = f"[{batch if self.started else 'B'}, {channels}, t]"
            raise ValueError(f"expected {expected} in this stream, got {list(x.shape)}")
        self.empty, self.started = x[..., :0].clone(), True
        return x

    def end(self) -> Tensor:
        self.check(self.empty)
        self.ended = True
        return self.empty


def _layers(network: nn.Module) -> list[nn.Module]:
    return list(cast(nn.Sequential, network.layers))


def _check_streamable(config: CodecConfig) -> None:
    if not config.causal:
        raise ValueError("this codec cannot stream: it is not causal, so its frames depend on later audio")
    if config.segment_seconds is not None:
        raise ValueError(f"this codec cannot stream: it codes independent segments of {config.segment_seconds} s")
    if config.normalize:
        raise ValueError("this codec cannot stream: it divides by the RMS of the whole signal")
