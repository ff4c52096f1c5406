"""Streaming: causal codecs encode and decode audio piece by piece, with the result of doing it in one pass."""

from codec.streaming.codec import StreamableCodec, StreamingDecoder, StreamingEncoder

__all__ = ["StreamableCodec", "StreamingDecoder", "StreamingEncoder"]
