"""Quantizers in ONNX graphs: latents to codes and back."""

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from codec.interop.onnx.graph import Graph
from codec.quantization import (
    FactorizedQuantizer,
    FiniteScalarQuantizer,
    Quantizer,
    ResidualVectorQuantizer,
    SimVQ,
)

__all__ = ["write_decode", "write_encode"]


def write_encode(graph: Graph, quantizer: Quantizer, latent: str) -> str:
    """The codes of all codebooks, as `quantizer.encode` computes them.

    Shape: latent [B, D, F] -> codes [B, K, F] int64.

    Raises:
        ValueError: The quantizer has no ONNX form.
    """
    frames = graph.node("Transpose", latent, perm=[0, 2, 1])
    vectors = graph.node("Reshape", frames, graph.integers(-1, quantizer.latent_dim))
    match quantizer:
        case ResidualVectorQuantizer():
            codes = _nearest(graph, quantizer.embed, vectors)
        case SimVQ():
            codes = _nearest(graph, quantizer.vectors().detach(), vectors)
        case FactorizedQuantizer():
            codes = _most_similar(graph, quantizer, vectors)
        case FiniteScalarQuantizer():
            codes = _digits(graph, quantizer, vectors)
        case _:
            raise _no_form(quantizer)
    count = graph.integers(len(codes))
    sizes = graph.node("Concat", graph.node("Shape", frames, start=0, end=2), count, axis=0)
    columns = [graph.node("Unsqueeze", code, graph.integers(1)) for code in codes]
    return graph.node("Transpose", graph.node("Reshape", graph.node("Concat", *columns, axis=1), sizes), perm=[0, 2, 1])


def write_decode(graph: Graph, quantizer: Quantizer, codes: str) -> str:
    """The sum of the vectors of the first k codebooks' codes, for any k from 1 to K.

    A code is looked up by codebook and index, so that an index out of range is an error and not a code of another
    codebook.

    Shape: codes [B, k, F] int64 -> latent [B, D, F].

    Raises:
        ValueError: The quantizer has no ONNX form.
    """
    tables, bias = _tables(quantizer)
    # GatherND would count negative indices from the end of the codebook.
    outside = graph.node("Less", codes, graph.integer(0))
    codes = graph.node("Where", outside, graph.integer(tables.shape[1]), codes)
    count = graph.node("Squeeze", graph.length(codes, 1))
    index = graph.node("Range", graph.integer(0), count, graph.integer(1))
    index = graph.node("Unsqueeze", index, graph.integers(0, 2))
    index = graph.node("Expand", index, graph.node("Shape", codes))
    pair = graph.node("Concat", *(graph.node("Unsqueeze", x, graph.integers(3)) for x in (index, codes)), axis=3)
    vectors = graph.node("GatherND", graph.weight("quantizer_embed", tables), pair)
    latent = graph.node("ReduceSum", vectors, graph.integers(1), keepdims=0)
    if bias is not None:
        latent = graph.node("Add", latent, graph.weight("quantizer_bias", bias))
    return graph.node("Transpose", latent, perm=[0, 2, 1])


def _no_form(quantizer: Quantizer) -> ValueError:
    return ValueError(f"a {type(quantizer).__name__} has no ONNX form here")


@torch.no_grad()
def _tables(quantizer: Quantizer) -> tuple[Tensor, Tensor | None]:
    """What each code adds to the latent, and what is added once. Shape: -> [K, size, D], [D]."""
    match quantizer:
        case ResidualVectorQuantizer():
            return quantizer.embed, None
        case SimVQ():
            return quantizer.vectors(), None
        case FactorizedQuantizer():
            return torch.stack([codebook.from_code(codebook.codes) for codebook in quantizer]), None
        case FiniteScalarQuantizer():
            linear, every = (
                quantizer.from_code,
                torch.arange(quantizer.codebook_sizes[0], device=quantizer.steps.device),
            )
            columns = linear.weight.unflatten(1, (quantizer.num_groups, -1))  # [D, G, d]
            groups = [columns[:, k % quantizer.num_groups] for k in range(quantizer.num_codebooks)]
            return torch.stack([quantizer.values(every, k) @ w.T for k, w in enumerate(groups)]), linear.bias
        case _:
            raise _no_form(quantizer)


def _nearest(graph: Graph, embed: Tensor, vectors: str) -> list[str]:
    """Greedy residual search. Shape: embed [K, size, D], vectors [N, D] -> K codes [N]."""
    codes = []
    for k, table in enumerate(embed):
        codebook = graph.weight(f"quantizer_{k}_embed", table)
        square = graph.weight(f"quantizer_{k}_square", table.square().sum(1))
        distance = graph.node("Gemm", vectors, codebook, square, alpha=-2.0, transB=1)
        codes.append(graph.node("ArgMin", distance, axis=1, keepdims=0))
        if k < len(embed) - 1:
            vectors = graph.node("Sub", vectors, graph.node("Gather", codebook, codes[-1]))
    return codes


@torch.no_grad()
def _most_similar(graph: Graph, quantizer: FactorizedQuantizer, vectors: str) -> list[str]:
    """Residual search by cosine similarity. Shape: vectors [N, D] -> K codes [N]."""
    tables, _ = _tables(quantizer)
    codes = []
    for k, (codebook, table) in enumerate(zip(quantizer, tables, strict=True)):
        weight, bias = (graph.weight(f"quantizer_{k}_{name}", getattr(codebook.to_code, name))
                        for name in ("weight", "bias"))  # fmt: skip
        directions = graph.weight(f"quantizer_{k}_directions", F.normalize(codebook.codes).T)
        similarity = graph.node("MatMul", graph.node("Gemm", vectors, weight, bias, transB=1), directions)
        codes.append(graph.node("ArgMax", similarity, axis=1, keepdims=0))
        if k < len(tables) - 1:
            vectors = graph.node("Sub", vectors, graph.node("Gather", graph.weight(f"quantizer_{k}", table), codes[-1]))
    return codes


@torch.no_grad()
def _digits(graph: Graph, quantizer: FiniteScalarQuantizer, vectors: str) -> list[str]:
    """Rounding to the grids of all codebooks. Shape: vectors [N, D] -> K codes [N]."""
    weight, bias = (graph.weight(f"quantizer_to_code_{name}", getattr(quantizer.to_code, name))
                    for name in ("weight", "bias"))  # fmt: skip
    bounded = graph.node("Tanh", graph.node("Gemm", vectors, weight, bias, transB=1))
    dim, half = len(quantizer.levels), quantizer.steps.float() / 2
    errors = [graph.slice(bounded, 1, g * dim, (g + 1) * dim) for g in range(quantizer.num_groups)]
    place = graph.weight("quantizer_place", quantizer.place.float()[:, None])
    last = graph.weight("quantizer_steps", quantizer.steps.float())
    codes = []
    for k in range(quantizer.num_codebooks):
        group, scale = k % quantizer.num_groups, quantizer.scale(k, half)
        # (error / scale + 1) / 2 * steps, and back.
        factor, offset = graph.weight(f"quantizer_{k}_factor", half / scale), graph.weight("quantizer_half", half)
        position = graph.node("Add", graph.node("Mul", errors[group], factor), offset)
        digits = graph.node("Min", graph.node("Max", graph.node("Round", position), graph.number(0.0)), last)
        codes.append(graph.node("Squeeze", graph.node("MatMul", digits, place), graph.integers(1)))
        value = graph.node("Div", graph.node("Sub", digits, offset), factor)
        errors[group] = graph.node("Sub", errors[group], value)
    return [graph.node("Cast", code, to=TensorProto.INT64) for code in codes]
