"""Encoder and decoder of a codec as ONNX graphs."""

from typing import NamedTuple, cast

import onnx
from torch import nn

from codec.interop.onnx.graph import Graph
from codec.interop.onnx.layers import NetworkWriter
from codec.interop.onnx.quantizers import write_decode, write_encode
from codec.model import CANCELLED, Codec
from codec.model_file import fingerprint

__all__ = ["CodecGraph", "write_decoder", "write_encoder"]


class CodecGraph(NamedTuple):
    """A finished graph."""

    model: onnx.ModelProto
    states: list[str]  # inputs that hold a state; NAME_next is the output
    first_step_frames: int


def write_encoder(codec: Codec, streaming: bool) -> CodecGraph:
    """Audio to the codes of all codebooks, and to the scale if the codec normalizes.

    Shape: audio [B, C, T] -> codes [B, K, F] int64, scale [B].

    Raises:
        ValueError: A layer or the quantizer has no ONNX form.
    """
    config, graph = codec.config, Graph()
    audio = graph.input("audio", ["batch", config.channels, "samples"])
    if config.normalize:
        # As in `Codec._normalize`.
        mono = graph.node("ReduceMean", audio, graph.integers(1))
        mono = graph.node("Sqrt", graph.node("ReduceMean", graph.node("Mul", mono, mono), graph.integers(2)))
        channels = graph.node("Sqrt", graph.node("ReduceMean", graph.node("Mul", audio, audio), graph.integers(1, 2)))
        cancelled = graph.node("Less", mono, graph.node("Mul", channels, graph.number(CANCELLED)))
        scale = graph.node("Add", graph.node("Where", cancelled, channels, mono), graph.number(1e-8))
        audio = graph.node("Div", audio, scale)
    network = NetworkWriter(graph, config.hop_samples, streaming)
    latent = network.layer(cast(nn.Module, codec.encoder.layers), audio, "encoder")
    codes = write_encode(graph, codec.quantizer, latent)
    graph.output("codes", codes, ["batch", config.num_codebooks, "frames"], onnx.TensorProto.INT64)
    if config.normalize:
        graph.output("scale", graph.node("Squeeze", scale, graph.integers(1, 2)), ["batch"])
    return _finish(codec, "encoder", network)


def write_decoder(codec: Codec, streaming: bool) -> CodecGraph:
    """Codes of any number of codebooks, and the scale if the codec normalizes, to audio.

    Shape: codes [B, k, F] int64 with k from 1 to K, scale [B] -> audio [B, C, F * hop].

    Raises:
        ValueError: A layer or the quantizer has no ONNX form.
    """
    config, graph = codec.config, Graph()
    codes = graph.input("codes", ["batch", "codebooks", "frames"], onnx.TensorProto.INT64)
    scale = graph.input("scale", ["batch"]) if config.normalize else None
    network = NetworkWriter(graph, 1, streaming)
    latent = write_decode(graph, codec.quantizer, codes)
    audio = network.layer(cast(nn.Module, codec.decoder.layers), latent, "decoder")
    if scale is not None:
        audio = graph.node("Mul", audio, graph.node("Unsqueeze", scale, graph.integers(1, 2)))
    graph.output("audio", audio, ["batch", config.channels, "samples"])
    return _finish(codec, "decoder", network)


def _finish(codec: Codec, name: str, network: NetworkWriter) -> CodecGraph:
    if network.streaming:
        network.end_step()
        name += "_stream"
    metadata = {"fingerprint": fingerprint(codec), "config": codec.config.to_dict()}
    return CodecGraph(network.graph.model(name, metadata), list(network.states), network.first_step_frames)
