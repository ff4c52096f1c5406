"""Encoder and decoder of a codec as ONNX graphs."""

from typing import NamedTuple, cast

import onnx
from torch import nn

from codec.interop.onnx.graph import Graph
from codec.interop.onnx.layers import NetworkWriter
from codec.model import CANCELLED, Codec
from codec.model_file import fingerprint
from codec.quantization import ResidualVectorQuantizer

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
        ValueError: A layer has no ONNX form.
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
    codes = _quantize(graph, _residual(codec), latent)
    graph.output("codes", codes, ["batch", config.num_codebooks, "frames"], onnx.TensorProto.INT64)
    if config.normalize:
        graph.output("scale", graph.node("Squeeze", scale, graph.integers(1, 2)), ["batch"])
    return _finish(codec, "encoder", network)


def write_decoder(codec: Codec, streaming: bool) -> CodecGraph:
    """Codes of any number of codebooks, and the scale if the codec normalizes, to audio.

    Shape: codes [B, k, F] int64 with k from 1 to K, scale [B] -> audio [B, C, F * hop].

    Raises:
        ValueError: A layer has no ONNX form.
    """
    config, graph = codec.config, Graph()
    codes = graph.input("codes", ["batch", "codebooks", "frames"], onnx.TensorProto.INT64)
    scale = graph.input("scale", ["batch"]) if config.normalize else None
    network = NetworkWriter(graph, 1, streaming)
    audio = network.layer(cast(nn.Module, codec.decoder.layers), _dequantize(graph, _residual(codec), codes), "decoder")
    if scale is not None:
        audio = graph.node("Mul", audio, graph.node("Unsqueeze", scale, graph.integers(1, 2)))
    graph.output("audio", audio, ["batch", config.channels, "samples"])
    return _finish(codec, "decoder", network)


def _residual(codec: Codec) -> ResidualVectorQuantizer:
    if not isinstance(codec.quantizer, ResidualVectorQuantizer):
        raise ValueError(f"a {type(codec.quantizer).__name__} has no ONNX form here")
    return codec.quantizer


def _finish(codec: Codec, name: str, network: NetworkWriter) -> CodecGraph:
    if network.streaming:
        network.end_step()
        name += "_stream"
    metadata = {"fingerprint": fingerprint(codec), "config": codec.config.to_dict()}
    return CodecGraph(network.graph.model(name, metadata), list(network.states), network.first_step_frames)


def _quantize(graph: Graph, quantizer: ResidualVectorQuantizer, latent: str) -> str:
    """The codes of all codebooks, as `ResidualVectorQuantizer.encode` computes them.

    Shape: latent [B, D, F] -> codes [B, K, F] int64.
    """
    count, _, width = quantizer.embed.shape
    frames = graph.node("Transpose", latent, perm=[0, 2, 1])
    residual = graph.node("Reshape", frames, graph.integers(-1, width))
    codes = []
    for k in range(count):
        embed = graph.weight(f"quantizer_{k}_embed", quantizer.embed[k])
        square = graph.weight(f"quantizer_{k}_square", quantizer.embed[k].square().sum(1))
        distance = graph.node("Gemm", residual, embed, square, alpha=-2.0, transB=1)
        code = graph.node("ArgMin", distance, axis=1, keepdims=0)
        codes.append(graph.node("Unsqueeze", code, graph.integers(1)))
        if k < count - 1:
            residual = graph.node("Sub", residual, graph.node("Gather", embed, code))
    sizes = graph.node("Concat", graph.node("Shape", frames, start=0, end=2), graph.integers(count), axis=0)
    return graph.node("Transpose", graph.node("Reshape", graph.node("Concat", *codes, axis=1), sizes), perm=[0, 2, 1])


def _dequantize(graph: Graph, quantizer: ResidualVectorQuantizer, codes: str) -> str:
    """The sum of the codes of the first k codebooks, for any k from 1 to K.

    A code is looked up by codebook and index, so that an index out of range is an error and not a code of another
    codebook.

    Shape: codes [B, k, F] int64 -> latent [B, D, F].
    """
    # GatherND would count negative indices from the end of the codebook.
    outside = graph.node("Less", codes, graph.integer(0))
    codes = graph.node("Where", outside, graph.integer(quantizer.embed.shape[1]), codes)
    count = graph.node("Squeeze", graph.length(codes, 1))
    index = graph.node("Range", graph.integer(0), count, graph.integer(1))
    index = graph.node("Unsqueeze", index, graph.integers(0, 2))
    index = graph.node("Expand", index, graph.node("Shape", codes))
    pair = graph.node("Concat", *(graph.node("Unsqueeze", x, graph.integers(3)) for x in (index, codes)), axis=3)
    vectors = graph.node("GatherND", graph.weight("quantizer_embed", quantizer.embed), pair)
    latent = graph.node("ReduceSum", vectors, graph.integers(1), keepdims=0)
    return graph.node("Transpose", latent, perm=[0, 2, 1])
