"""Causal codecs encode and decode piece by piece, with the result of doing it in one.

Every layer of the network gets a small object beside it that holds what the layer needs of the past, so that the
network itself stays as it is trained. Codecs that cannot stream are coded segment by segment (`codec.coding.segments`).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.config import CodecConfig
from codec.network.seanet import ResidualLSTM
from codec.streaming.layers import Chain, past_inputs

if TYPE_CHECKING:
    from codec.model import Codec  # which streams what is long

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

    def __init__(self, codec: "Codec", bandwidth_kbps: float | None = None) -> None:
        _check_streamable(codec.config)
        config = codec.config
        self.codec = codec
        self.codebooks = config.codebooks if bandwidth_kbps is None else config.codebooks_for(bandwidth_kbps)
        self._search = codec.quantizer.search(self.codebooks)
        self._network = Chain(codec.encoder.layers)
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
        return self._search(latent)


class StreamingDecoder:
    """Decodes a causal codec's frames as they arrive.

    The audio of all pushes and the flush, joined, is that of `Codec.decode`, F * hop samples long, to the rounding
    of float32.

    Decoding may begin in the middle: `skip` all frames before, or, if `needs_all_frames` is False, leave them out;
    then push. What comes out belongs to the frames pushed, but is wrong for the first `warm_up_frames` of them.

    Attributes:
        warm_up_frames: How many frames later the layers behind the LSTM (all, if there is none) have forgotten one.
        needs_all_frames: There is an LSTM, whose state every frame before has a part in.

    Args:
        codec: As in `StreamingEncoder`.

    Raises:
        ValueError: The codec cannot stream.
    """

    def __init__(self, codec: "Codec") -> None:
        _check_streamable(codec.config)
        self.codec = codec
        layers = list(codec.decoder.layers)
        forgetful = 1 + max((i for i, layer in enumerate(layers) if isinstance(layer, ResidualLSTM)), default=-1)
        self.needs_all_frames = forgetful > 0
        self.warm_up_frames = int(past_inputs(layers[forgetful:]))
        self._head, self._tail = Chain(layers[:forgetful]), Chain(layers[forgetful:])
        self._feed = _Feed(codec.config.latent_dim, next(codec.parameters()))
        self._to_skip = 0  # frames whose latents the head still holds back and that are not to go on

    @torch.no_grad()
    def skip(self, codes: Tensor) -> None:
        """Passes over frames before the first that is pushed, in the small part of the time that the LSTM takes.

        Shape: codes [B, K, f].

        Raises:
            ValueError: As in `push`.
        """
        self._to_skip += codes.shape[-1]
        self._remember(self._feed.check(self.codec.quantizer.decode(codes)), last=False)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Audio of the given frames, less what the first layers still hold back.

        Shape: codes [B, K, f] -> audio [B, C, t].

        Raises:
            ValueError: The shape does not fit the pushes before it, or the stream is flushed.
        """
        latent = self._feed.check(self.codec.quantizer.decode(codes))
        return self._tail.push(self._remember(latent, last=False), last=False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The audio still held back; the stream ends here.

        Shape: -> audio [B, C, t].
        """
        return self._tail.push(self._remember(self._feed.end(), last=True), last=True)

    def _remember(self, latent: Tensor, last: bool) -> Tensor:
        latent = self._head.push(latent, last)
        skipped = min(self._to_skip, latent.shape[-1])
        self._to_skip -= skipped
        return latent[..., skipped:]


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


def _check_streamable(config: CodecConfig) -> None:
    if not config.causal:
        raise ValueError("only a causal codec streams: in this one every frame needs audio that comes after it")
    if config.segment_seconds is not None:
        raise ValueError(f"this codec does not stream: it codes segments of {config.segment_seconds} s on their own")
    if config.normalize:
        raise ValueError("this codec does not stream: it divides by the RMS of the whole signal")
