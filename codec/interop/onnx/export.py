"""ONNX files of a codec, for runtimes without torch.

`encoder.onnx` and `decoder.onnx` take whole signals (of a codec with segments: one segment); `encoder_stream.onnx` and
`decoder_stream.onnx`, which only causal codecs have, take a step of a stream and its state. `onnx.json` says of each
what goes in and comes out.
"""

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.atomic_file import atomic_write
from codec.model import Codec
from codec.model_file import fingerprint

if TYPE_CHECKING:
    import onnx

    from codec.interop.onnx.codec_graph import CodecGraph

__all__ = ["export_onnx"]

_FILES = ("encoder.onnx", "decoder.onnx", "encoder_stream.onnx", "decoder_stream.onnx", "onnx.json")
_SIGNAL = (
    "Any number of signals and of samples, at least 1 each. The samples become ceil(samples / hop_samples) frames, and "
    "these decode to whole frames again: cut what is too much."
)
_SEGMENT = (
    "The graphs code one segment; the last one of a signal may be shorter. Segment i begins at i * stride_samples. To "
    "join decoded segments, weigh sample t (from 0) of each by 0.5 - |(t + 1) / (n + 1) - 0.5|, with n the samples of "
    "the first decoded segment, add them up where they lie and divide by the sum of the weights."
)
_STREAM = (
    "A step takes a whole number of frames and all states. Zeros are the states of a stream that begins; after that, "
    "each output NAME_next is the next step's input NAME. The results of all steps, joined, are those of the graph "
    "for whole signals. The last step of an encoder may have any number of samples, at least 1."
)
_FIRST_STEP = (
    " A first step that is not the last one needs first_step_frames frames: its start is padded by reflection."
)
_NO_STREAM = "None: only codecs that are causal, code a signal in one piece and do not normalize it can stream."


def export_onnx(codec: Codec, directory: Path) -> list[Path]:
    """Writes what this module describes into `directory`, and `onnx.json` last.

    The graphs take float32 on any device; codes are int64, of which the first k books are the codes at a lower
    bandwidth. Equal codecs give equal files.

    Args:
        codec: It is not changed.
        directory: Made if it is missing; an earlier export in it is replaced.

    Returns:
        The files written.

    Raises:
        ValueError: The package onnx is missing, a layer or the size of the codec has no place in an ONNX file, or the
            directory holds other things by these names; nothing was written.
        OSError: A file cannot be written.
    """
    if find_spec("onnx") is None:
        raise ValueError("export to ONNX needs the package onnx: bash scripts/setup.sh onnx")
    # Here, because only an export needs onnx.
    from codec.interop.onnx.codec_graph import write_decoder, write_encoder

    there = [name for name in _FILES if (directory / name).exists()]
    if there and "onnx.json" not in there:
        raise ValueError(f"{directory} holds a {there[0]} that is of no exported model: choose another folder")
    graphs = {
        "encoder.onnx": write_encoder(codec, streaming=False),
        "decoder.onnx": write_decoder(codec, streaming=False),
    }
    if codec.config.can_stream:
        graphs["encoder_stream.onnx"] = write_encoder(codec, streaming=True)
        graphs["decoder_stream.onnx"] = write_decoder(codec, streaming=True)
    contents = {name: graph.model.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    contents["onnx.json"] = (json.dumps(_describe(codec, graphs), indent=2) + "\n").encode()
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with atomic_write(directory / name) as temporary:
            temporary.write_bytes(content)
    for name in set(there) - set(contents):  # of an earlier model, which could stream
        (directory / name).unlink()
    return [directory / name for name in contents]


def _describe(codec: Codec, graphs: "Mapping[str, CodecGraph]") -> dict[str, Any]:
    from codec.interop.onnx.graph import OPSET

    config = codec.config
    about: dict[str, Any] = {
        "fingerprint": fingerprint(codec),
        "opset": OPSET,
        "sample_rate": config.sample_rate,
        "channels": config.channels,
        "hop_samples": config.hop_samples,
        "codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "bandwidths": [{"kbps": kbps, "books": config.codebooks_for(kbps)} for kbps in config.bandwidths_kbps],
        "normalize": config.normalize,
        "lengths": _SIGNAL,
    }
    if config.segment_seconds is not None:
        samples = config.segment_samples_or(0)
        about["segments"] = {"samples": samples, "stride_samples": codec.config.segment_stride(0), "about": _SEGMENT}
    about["streaming"] = _STREAM if config.can_stream else _NO_STREAM
    if config.can_stream and config.network["padding"] == "reflect":
        about["streaming"] += _FIRST_STEP
    about["graphs"] = {name: _describe_graph(graph) for name, graph in graphs.items()}
    return about


def _describe_graph(graph: "CodecGraph") -> dict[str, Any]:
    inputs, outputs = _tensors(graph.model.graph.input), _tensors(graph.model.graph.output)
    if not graph.states:
        return {"inputs": inputs, "outputs": outputs}
    return {
        "inputs": [tensor for tensor in inputs if tensor["name"] not in graph.states],
        "outputs": outputs[: -len(graph.states)],
        "states": [tensor | {"next": f"{tensor['name']}_next"} for tensor in inputs if tensor["name"] in graph.states],
        "first_step_frames": graph.first_step_frames,
    }


def _tensors(values: "Iterable[onnx.ValueInfoProto]") -> list[dict[str, Any]]:
    from onnx.helper import tensor_dtype_to_np_dtype

    return [
        {
            "name": value.name,
            "dtype": tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            "shape": [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        }
        for value in values
    ]
